// The theme: that of the system, unless another one was chosen in this browser.

import { stored } from "./ui.js";

/** The values of `color-scheme` with the names of the themes. */
export const THEMES = { light: "Light theme", dark: "Dark theme", "light dark": "Theme of the system" };

export function setTheme(theme) {
  localStorage.setItem("clinvk.theme", JSON.stringify(theme));
  document.documentElement.style.colorScheme = theme;
}

document.documentElement.style.colorScheme = stored("theme", "");
