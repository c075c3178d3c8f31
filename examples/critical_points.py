"""What kind of point is this? A saddle, looked at, left, and met again in a deeper network.

Run it with ``python examples/critical_points.py``, or cell by cell in an editor that knows ``# %%``.
"""

# %% One sample, x = 1 and y = 1, and a network that is a product of two weights.
import torch
from torch import Tensor, nn

from lightning_doctor.measure import classify_critical_point, escape_direction, noise_scale, spectrum, step_scan


class Product(nn.Module):
    """Multiplies its input with both of its weights."""

    def __init__(self, first: float, second: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([first, second]))

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns w₁·w₂·x."""
        return self.weights.prod() * inputs


def squared_error(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The loss: a function of the module and a batch."""
    inputs, targets = batch
    return (module(inputs) - targets).square().mean()


sample = (torch.ones(1), torch.ones(1))

# %% At the origin the gradient is zero. The Hessian is [[0, −2], [−2, 0]]: eigenvalues −2 and 2.
origin = Product(0.0, 0.0)
point = classify_critical_point(origin, sample, squared_error)
print(f"(0, 0) is a {point.kind}: {point.because}")
ends = spectrum(origin, sample, squared_error).ends
print(f"eigenvalues {ends.low:.3f} and {ends.high:.3f}")

# %% The way out is along (1, 1): from there the loss falls from 1 to 0 at a distance of √2, where both weights are 1.
way = escape_direction(origin, sample, squared_error)
assert way is not None
print(f"escape along {way.direction.tolist()}, down by {way.fall:.3f} at distance {way.distance:.3f}")
with torch.no_grad():
    origin.weights += way.distance * way.direction
print(f"loss after the step: {squared_error(origin, sample).item():.2g}")
point = classify_critical_point(origin, sample, squared_error)
print(f"({', '.join(f'{w:.3f}' for w in origin.weights.tolist())}) is a {point.kind}: {point.because}")

# %% A deep linear network that starts close to its saddle stays there for long, as its gradient is next to nothing.
torch.manual_seed(0)
net = nn.Sequential(*[nn.Linear(4, 4, bias=False) for _ in range(3)])
for layer in net:
    nn.init.normal_(layer.weight, std=0.02)
inputs = torch.randn(1024, 4)
targets = inputs @ torch.diag(torch.tensor([2.0, 1.0, 0.5, 0.25])) + 0.1 * torch.randn(1024, 4)
task = (inputs, targets)
start = squared_error(net, task).item()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(200):
    optimizer.zero_grad()
    squared_error(net, task).backward()
    optimizer.step()
print(f"loss {start:.4f}, after 200 steps of gradient descent {squared_error(net, task).item():.4f}")
point = classify_critical_point(net, task, squared_error)
print(f"it is at a {point.kind}: {point.because} ({point.products} products with the Hessian)")

# %% A step along its way out does what two hundred steps of gradient descent did not.
way = escape_direction(net, task, squared_error)
assert way is not None
with torch.no_grad():
    parameters = list(net.parameters())
    for parameter, direction in zip(parameters, way.along(parameters), strict=True):
        parameter += way.distance * direction
print(f"loss {squared_error(net, task).item():.4f} after a step of {way.distance:.2f} along the way out")

# %% From here on there is a slope. How long may a step be, and how many samples does it need?
gradient = torch.autograd.grad(squared_error(net, (inputs[:512], targets[:512])), list(net.parameters()))
scan = step_scan(net, (inputs[512:], targets[512:]), squared_error, [-0.1 * part for part in gradient])
assert scan is not None
limit = "none that was tried" if scan.limit is None else f"lr {0.1 * scan.limit:.3g}"
print(f"smallest step that raises the loss of other samples: {limit}")
scale = noise_scale(net, task, squared_error)
if scale.samples is None:
    print(f"no gradient noise scale: {scale.reason}")
else:
    print(f"gradient noise scale: {scale.samples:.3g} ± {scale.error:.2g} samples")

# %% Trained on, it comes to rest, and there is no negative curvature that matters any more.
optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
for _ in range(1000):
    optimizer.zero_grad()
    squared_error(net, task).backward()
    optimizer.step()
point = classify_critical_point(net, task, squared_error)
print(f"loss {squared_error(net, task).item():.4f}: a {point.kind}: {point.because}")
