// The service worker of the console: shows the messages of Web Push, also while no tab is open. It caches nothing.

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("push", (event) => event.waitUntil(show(event.data.json())));
self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  event.waitUntil(open(event.notification.data));
});

/** Show a message. It replaces the notification that a tab has shown of the same run. */
function show({ title, body, path, tag }) {
  navigator.setAppBadge?.().catch(() => {});
  const icon = new URL("icon-192.png", self.location).href;
  return self.registration.showNotification(title, { body, tag, icon, data: path });
}

/** Show a screen: in the tab that was shown last, else in a new one. */
async function open(path) {
  const url = new URL(path, self.registration.scope).href;
  const tabs = await self.clients.matchAll({ type: "window" });
  const tab = tabs.find((each) => each.url === url) ?? tabs[0];
  if (!tab) return self.clients.openWindow(url);
  await tab.focus();
  return tab.navigate(url);
}
