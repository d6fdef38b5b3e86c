// Sets the theme that the operator chose before the first paint; theme.js owns everything after that.
(() => {
  try {
    const theme = localStorage.getItem("host.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch { /* Without storage the page follows the system. */ }
})();
