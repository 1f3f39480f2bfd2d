// Keeps the status page as it is now: replaces the parts that have changed. Without this script the page is complete.
"use strict";
const live = document.getElementById("live");
const say = (kind, text) => {
  live.className = kind;
  live.textContent = text;
};
const source = new EventSource("/events" + location.search);
source.addEventListener("open", () => say("on", "Live"));
source.addEventListener("error", () => say("off", "No answer; trying again…"));
source.addEventListener("part", (event) => {
  const [name, content] = JSON.parse(event.data);
  const place = document.getElementById(name);
  if (place !== null) place.innerHTML = content;
});
