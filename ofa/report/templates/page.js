// Unpack the data, draw the charts, start the explorer, serve the downloads.

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text.trim()), (char) => char.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
}

async function start() {
  const data = await (await unpack(document.getElementById("data").textContent)).json();
  const charts = [...document.querySelectorAll("[data-chart]")].map((holder) => new Chart(holder, data.charts[holder.dataset.chart]));
  const section = document.getElementById("explorer");
  const explorer = section ? new Explorer(section, data, charts) : null;
  const all = () => [...charts, ...(explorer ? [explorer.chart] : [])];
  addEventListener("beforeprint", () => {
    document.querySelector("section:last-of-type details").open = true;
    explorer?.strip(310);
    all().forEach((chart) => chart.draw(chart.holder.closest(".low") ? 260 : chart.holder.closest(".halves, .result, .wide-narrow") ? 380 : 690));
  });
  addEventListener("afterprint", () => {
    explorer?.strip();
    all().forEach((chart) => chart.draw());
  });
  document.documentElement.dataset.ready = "";
}

for (const link of document.querySelectorAll("a[data-name]")) {
  link.addEventListener("click", async (event) => {
    event.preventDefault();
    const save = document.createElement("a");
    save.href = URL.createObjectURL(await (await unpack(link.href.split(",")[1])).blob());
    save.download = link.dataset.name;
    save.click();
    URL.revokeObjectURL(save.href);
  });
}

start().catch((error) => {
  document.getElementById("failed").hidden = false;
  throw error;
});
