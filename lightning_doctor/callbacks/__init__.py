"""Lightning hooks: the only part of the package, with the CLI, that imports lightning."""
