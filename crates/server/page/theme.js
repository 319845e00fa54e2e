// Loaded before the first paint, so that a remembered theme does not flash in the other one's colours.
try {
  const theme = localStorage.getItem("cuvier.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage is disabled: the system's preference holds.
}
