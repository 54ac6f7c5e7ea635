"""Files: whole or not at all (`files`), and minires' own container for nested values (`archive`). NumPy alone."""
