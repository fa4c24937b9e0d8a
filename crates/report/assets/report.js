"use strict";

// Draws the charts and moves the pictures of a report. The data is in the element `run`; nothing is loaded.
(() => {
  const root = document.documentElement;
  const run = JSON.parse(document.getElementById("run").textContent);
  const style = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const whole = new Intl.NumberFormat("en");
  const lastStep = Math.max(...run.charts.map((chart) => chart.steps.at(-1)));
  const LABELLED_HEIGHT = 160;
  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  // Three significant digits, never fewer than the integer part has; the page's own numbers are written the same way.
  function number(value) {
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e");
    if (size >= 999.5) return whole.format(Math.round(value));
    return String(Number(value.toPrecision(3)));
  }

  // Where a curve is among uPlot's series: after the steps and, of a chart with errors, the two edges of the band.
  const seriesIndex = (chart, curveIndex) => curveIndex + (chart.errors ? 3 : 1);

  // The color of a curve. An ordered set of curves goes from blue over violet to orange, ever lighter.
  function color(chart, curveIndex) {
    const { role } = chart.curves[curveIndex];
    if (role === "main") return style(chart.curves.some((curve) => curve.role === "ramp") ? "--ink" : "--ember");
    if (role === "faint") return style("--faint");
    const ramp = chart.curves.filter((curve) => curve.role === "ramp").length;
    return rampColor(ramp > 1 ? curveIndex / (ramp - 1) : 0);
  }

  function rampColor(position) {
    const from = Number(style("--ramp-light"));
    const to = Number(style("--ramp-dark"));
    const lightness = from + (to - from) * position;
    return `oklch(${lightness.toFixed(3)} ${style("--ramp-chroma")} ${(262 + 150 * position).toFixed(1)})`;
  }

  const tooltip = element("div", "tooltip");
  tooltip.hidden = true;
  tooltip.setAttribute("role", "status");
  document.body.append(tooltip);

  function showTooltip(chart, plot) {
    const { idx, left } = plot.cursor;
    if (idx === null || idx === undefined) {
      tooltip.hidden = true;
      return;
    }
    const lines = chart.curves.flatMap((curve, index) => {
      const value = curve.values[idx];
      if (value === null || !plot.series[seriesIndex(chart, index)].show) return [];
      const line = element("span");
      const swatch = element("i");
      swatch.style.background = color(chart, index);
      const error = chart.errors?.[idx] ? ` ± ${number(chart.errors[idx])}` : "";
      line.append(swatch, curve.label || "value", element("em", "", `${number(value)}${error} ${chart.unit}`.trim()));
      return [line];
    });
    tooltip.replaceChildren(element("b", "", `${run.axis} ${whole.format(chart.steps[idx])}`), ...lines);
    tooltip.hidden = false;
    const area = plot.over.getBoundingClientRect();
    const at = area.left + left;
    const { offsetWidth: width, offsetHeight: height } = tooltip;
    const x = at + 16 + width > root.clientWidth ? Math.max(4, at - 16 - width) : at + 16;
    const y = Math.max(4, area.top + (area.height - height) / 2);
    tooltip.style.transform = `translate(${x + scrollX}px, ${y + scrollY}px)`;
  }

  // A dashed line at the step at which the hint took hold, and one at zero where the axis crosses it.
  function drawMarks(plot) {
    const { ctx } = plot;
    const { left, top, width, height } = plot.bbox;
    const line = (stroke, dash, x0, y0, x1, y1) => {
      ctx.save();
      ctx.strokeStyle = stroke;
      ctx.lineWidth = devicePixelRatio;
      ctx.setLineDash(dash.map((length) => length * devicePixelRatio));
      ctx.beginPath();
      ctx.moveTo(x0, y0);
      ctx.lineTo(x1, y1);
      ctx.stroke();
      ctx.restore();
    };
    if (plot.scales.y.min < 0 && plot.scales.y.max > 0) {
      const y = plot.valToPos(0, "y", true);
      line(style("--soft"), [], left, y, left + width, y);
    }
    const { min, max } = plot.scales.x;
    if (run.took_hold === null || run.took_hold < min || run.took_hold > max) return;
    const x = plot.valToPos(run.took_hold, "x", true);
    line(style("--ember"), [4, 4], x, top, x, top + height);
    if (height < LABELLED_HEIGHT * devicePixelRatio) return;
    ctx.save();
    ctx.font = `600 ${12 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.fillStyle = style("--ember");
    const part = (x - left) / width;
    ctx.textAlign = part < 0.1 ? "left" : part > 0.9 ? "right" : "center";
    ctx.fillText("took hold", x, top - 6 * devicePixelRatio);
    ctx.restore();
  }

  // The room that the vertical axis needs for its longest label.
  function axisSize(plot, labels, axisIndex, cycle) {
    const axis = plot.axes[axisIndex];
    if (cycle > 1) return axis._size;
    const longest = (labels ?? []).reduce((a, b) => (b.length > a.length ? b : a), "");
    plot.ctx.font = axis.font[0];
    return axis.ticks.size + axis.gap + plot.ctx.measureText(longest).width / devicePixelRatio + 8;
  }

  // Evenly spaced labels need the same digits, more of them the closer they are.
  function axisLabels(plot, splits) {
    const step = splits.length > 1 ? Math.abs(splits[1] - splits[0]) : 1;
    const largest = Math.max(...splits.map(Math.abs));
    if (largest > 0 && largest < 1e-3) return splits.map((value) => (value === 0 ? "0" : number(value)));
    const digits = Math.max(0, Math.ceil(-Math.log10(step) - 1e-9));
    const format = new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
    return splits.map((value) => format.format(value === 0 ? 0 : value));
  }

  function valueRange(chart) {
    return (plot, min, max) => {
      if (min === null) return [0, 1];
      let [from, to] = chart.has_zero ? [Math.min(0, min), Math.max(0, max)] : [min, max];
      if (from === to) [from, to] = from === 0 ? [0, 1] : [from - Math.abs(from) / 10, to + Math.abs(to) / 10];
      const room = (to - from) * 0.08;
      return [chart.has_zero && from === 0 ? 0 : from - room, to + room];
    };
  }

  function drawChart(figure) {
    const chart = run.charts[figure.dataset.chart];
    const box = figure.querySelector(".plot");
    const first = seriesIndex(chart, 0);
    const isSingle = chart.curves.length === 1;
    const hasPoints = chart.curves.length <= 6;
    const isLabelled = run.took_hold !== null && box.clientHeight > LABELLED_HEIGHT;
    // One standard error below and above the curve.
    const margins = chart.errors
      ? [-1, 1].map((sign) => chart.curves[0].values.map((value, index) => value === null ? null : value + sign * chart.errors[index]))
      : [];
    const ink = () => style("--soft");
    const axis = {
      stroke: ink,
      font: "12px system-ui, sans-serif",
      grid: { stroke: () => style("--grid"), width: 1 },
      ticks: { show: false, size: 0 },
      gap: 6,
    };
    const size = () => ({
      width: box.clientWidth,
      height: box.clientHeight - parseFloat(getComputedStyle(box).paddingTop),
    });
    const options = {
      ...size(),
      legend: { show: false },
      padding: [isLabelled ? 22 : 8, 6 + 4 * whole.format(lastStep).length, 0, 0],
      cursor: {
        sync: { key: "steps", setSeries: false },
        y: false,
        drag: { x: true, y: false, dist: 8 },
        points: {
          size: (plot, index) => (index < first ? 0 : 8),
          width: 2,
          fill: () => style("--card"),
          stroke: (plot, index) => (index < first ? "transparent" : color(chart, index - first)),
        },
      },
      scales: {
        // All charts have the same horizontal axis, until one is zoomed.
        x: {
          time: false,
          range: (plot, min, max) => (min === chart.steps[0] && max === chart.steps.at(-1) ? [0, lastStep || 1] : [min, max]),
        },
        y: { range: valueRange(chart) },
      },
      axes: [
        {
          ...axis,
          size: 28,
          space: 64,
          incrs: [1, 2, 5].flatMap((first) => Array.from({ length: 9 }, (_, power) => first * 10 ** power)).sort((a, b) => a - b),
          values: (plot, splits) => splits.map((value) => (Number.isInteger(value) ? whole.format(value) : "")),
        },
        { ...axis, size: axisSize, space: 36, values: axisLabels },
      ],
      series: [
        {},
        ...margins.map(() => ({ width: 0, spanGaps: true, points: { show: false } })),
        ...chart.curves.map((curve, index) => ({
          label: curve.label,
          stroke: () => color(chart, index),
          fill: isSingle && margins.length === 0 ? () => style("--ember-wash") : undefined,
          width: curve.role === "main" ? 2 : curve.role === "faint" ? 1 : 1.6,
          spanGaps: true,
          points: hasPoints ? { size: 5, fill: () => color(chart, index) } : { show: false },
        })),
      ],
      bands: margins.length > 0 ? [{ series: [2, 1], fill: () => style("--band") }] : [],
      hooks: {
        draw: [drawMarks],
        setCursor: [(plot) => plot.over === active && showTooltip(chart, plot)],
      },
    };
    const plot = new uPlot(options, [chart.steps, ...margins, ...chart.curves.map((curve) => curve.values)], box);
    plots.push(plot);
    if (!isSingle) addLegend(figure, chart, plot);

    const leave = () => {
      if (active === plot.over) active = null;
      tooltip.hidden = true;
    };
    const moveTo = (left) => {
      active = plot.over;
      plot.setCursor({ left, top: 1 });
    };
    plot.over.addEventListener("mouseenter", () => (active = plot.over));
    plot.over.addEventListener("mouseleave", leave);
    const touch = (event) => moveTo(event.touches[0].clientX - plot.over.getBoundingClientRect().left);
    plot.over.addEventListener("touchstart", touch, { passive: true });
    plot.over.addEventListener("touchmove", touch, { passive: true });
    box.addEventListener("blur", leave);
    box.addEventListener("keydown", (event) => {
      const last = chart.steps.length - 1;
      const now = plot.cursor.idx ?? last;
      const next = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      moveTo(plot.valToPos(chart.steps[Math.min(last, Math.max(0, next))], "x"));
    });
    new ResizeObserver(() => plot.setSize(size())).observe(box);
  }

  // Few curves have a button each, that hides and shows them; many have the scale of their colors.
  function addLegend(figure, chart, plot) {
    const legend = element("div", "legend");
    if (chart.curves.length > 6) {
      const scale = element("span", "scale");
      const bar = element("i");
      const paint = () => {
        const stops = Array.from({ length: 6 }, (_, index) => rampColor(index / 5));
        bar.style.background = `linear-gradient(90deg, ${stops.join(", ")})`;
      };
      paint();
      painters.push(paint);
      scale.append(chart.curves[0].label, bar, chart.curves.at(-1).label);
      legend.append(scale);
    } else {
      chart.curves.forEach((curve, index) => {
        const button = element("button");
        const swatch = element("i");
        const paint = () => (swatch.style.background = color(chart, index));
        paint();
        painters.push(paint);
        button.type = "button";
        button.setAttribute("aria-pressed", "true");
        button.append(swatch, curve.label);
        button.addEventListener("click", () => {
          const show = !plot.series[seriesIndex(chart, index)].show;
          plot.setSeries(seriesIndex(chart, index), { show });
          button.setAttribute("aria-pressed", String(show));
        });
        legend.append(button);
      });
    }
    figure.querySelector("figcaption").after(legend);
  }

  function showPictures() {
    const { frames, pictures } = run.gallery;
    const images = [...document.querySelectorAll(".gallery img")].map((image) => {
      const row = Number(image.closest("article").dataset.row);
      return { image, row, kind: image.dataset.kind };
    });
    const set = (image, picture) => {
      if (picture === null || picture === undefined) image.removeAttribute("src");
      else if (image.src !== pictures[picture]) image.src = pictures[picture];
    };
    const show = (frameIndex) => {
      for (const { image, row, kind } of images) {
        if (kind === "before") set(image, frames[0].cells[row].drawn);
        else set(image, frames[frameIndex].cells[row][kind === "now" ? "drawn" : kind]);
      }
    };
    const slider = document.getElementById("step");
    if (!slider) {
      if (frames.length > 0) show(0);
      return;
    }
    const output = document.querySelector(".player output");
    const last = frames.length - 1;
    const move = () => {
      const text = `Step ${whole.format(frames[slider.value].step)}`;
      output.textContent = text;
      slider.setAttribute("aria-valuetext", text);
      slider.style.setProperty("--done", `${(100 * slider.value) / last}%`);
      show(slider.value);
    };
    const play = document.getElementById("play");
    let timer = null;
    const stop = () => {
      clearInterval(timer);
      timer = null;
      delete play.dataset.playing;
      play.setAttribute("aria-label", "Play");
    };
    play.addEventListener("click", () => {
      if (timer !== null) return stop();
      if (Number(slider.value) === last) slider.value = 0;
      move();
      play.dataset.playing = "";
      play.setAttribute("aria-label", "Pause");
      timer = setInterval(() => {
        slider.value = Number(slider.value) + 1;
        move();
        if (Number(slider.value) === last) stop();
      }, Math.min(700, Math.max(180, 6000 / last)));
    });
    slider.addEventListener("input", () => {
      stop();
      move();
    });
    move();
  }

  function offerCopy() {
    const button = document.getElementById("copy");
    if (!button || !navigator.clipboard) return;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.querySelector(".config code").textContent);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
  }

  const plots = [];
  const painters = [];
  let active = null;
  root.classList.add("ready");
  showPictures();
  document.querySelectorAll("[data-chart]").forEach(drawChart);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const plot of plots) plot.redraw(false);
    for (const paint of painters) paint();
  });
  offerCopy();
  const writtenAt = new Date(run.written_at * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  document.getElementById("written-at").textContent = `, ${writtenAt}`;
})();
