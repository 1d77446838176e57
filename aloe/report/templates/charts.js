"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);

  // Values of keys that end in "color" are names of CSS properties: charts follow the theme.
  const paint = (value, style, key = "") => {
    if (Array.isArray(value)) return value.map((item) => paint(item, style, key));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, paint(v, style, k)]));
    }
    return key.endsWith("color") ? style.getPropertyValue(value).trim() : value;
  };

  const axis = {
    gridcolor: "--line", linecolor: "--line", zerolinecolor: "--line",
    spikecolor: "--muted", spikethickness: 1, spikedash: "dot",
    fixedrange: true, automargin: true, title: { standoff: 10, font: { size: 13 } },
  };
  const base = {
    autosize: true,
    dragmode: false,
    font: { family: "system-ui, sans-serif", size: 13, color: "--muted" },
    hoverlabel: { bgcolor: "--panel", bordercolor: "--line", font: { color: "--ink" }, align: "left" },
    legend: {
      orientation: "h", x: 0, y: 1.02, yanchor: "bottom", traceorder: "normal",
      itemclick: false, itemdoubleclick: false,
    },
    margin: { l: 12, r: 12, t: 12, b: 12 },
    paper_bgcolor: "--paper",
    plot_bgcolor: "--paper",
    xaxis: axis,
    yaxis: axis,
  };

  const draw = () => {
    const style = getComputedStyle(document.documentElement);
    const template = paint({ layout: base }, style);
    for (const node of document.querySelectorAll("[data-figure]")) {
      const figure = figures.find((item) => item.id === node.dataset.figure);
      const layout = { ...paint(figure.layout, style), template };
      const config = { displayModeBar: false, displaylogo: false, responsive: true };
      Plotly.react(node, paint(figure.traces, style), layout, config);
    }
  };

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
