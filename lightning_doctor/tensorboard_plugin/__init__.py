"""The Doctor tab of TensorBoard. TensorBoard finds it by the entry point ``tensorboard_plugins``."""
