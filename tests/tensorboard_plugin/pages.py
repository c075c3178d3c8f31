"""What the tab can be brought to show, for tests that look at all of it."""

from __future__ import annotations

from collections.abc import Callable

from tests.tensorboard_plugin.chrome import Tab
from tests.tensorboard_plugin.logs import PROGRAMS


def open_all(tab: Tab) -> None:
    """Opens all that can be opened, and what opens inside that."""
    tab.browser.execute_script(
        "for (let shut; (shut = document.querySelector('details:not([open])')); ) shut.open = true;"
    )
    # The body of a card is filled by an event that comes a moment later.
    tab.wait(lambda: not any(body.get_property("childElementCount") == 0 for body in tab.all(".card-body")))
    tab.browser.execute_script("document.querySelectorAll('details').forEach((one) => (one.open = true))")


def show_run(name: str) -> Callable[[Tab], None]:
    def show(tab: Tab) -> None:
        tab.choose(name)
        open_all(tab)

    return show


def show_comparison(tab: Tab) -> None:
    tab.tick(*PROGRAMS)


def show_manual(tab: Tab) -> None:
    tab.choose("saddle")
    tab.keyed("manual LD401").click()
    tab.wait(lambda: tab.find("dialog[open]"))


PAGES = {**{name: show_run(name) for name in PROGRAMS}, "compared": show_comparison, "manual": show_manual}


def darken(tab: Tab, dark: bool) -> None:
    """Gives TensorBoard its other theme, and waits until the tab has followed."""
    tab.browser.execute_script("window.parent.document.body.classList.toggle('dark-mode', arguments[0])", dark)
    tab.wait(lambda: tab.browser.execute_script("return document.documentElement.classList.contains('dark')") is dark)
