const make = (tag, name, parent) => {
  const node = document.createElement(tag);
  node.className = name;
  parent.append(node);
  return node;
};
const nearest = (points, distance) => points.reduce((a, b) => (distance(b) < distance(a) ? b : a));
const place = (node, x, y, height = 1000) => {
  node.style.left = x / 10 + "%";
  node.style.top = (100 * y) / height + "%";
  node.classList.toggle("left", x > 550);
  node.classList.toggle("below", y < 250);
};
const pointer = (box, show, hide) => {
  const at = (event) => {
    const r = box.getBoundingClientRect();
    show(((event.clientX - r.left) / r.width) * 1000, ((event.clientY - r.top) / r.width) * 1000, r);
  };
  box.addEventListener("pointermove", at);
  box.addEventListener("pointerdown", at);
  box.addEventListener("pointerleave", hide);
};
for (const plot of document.querySelectorAll(".plot")) {
  const points = JSON.parse(plot.dataset.points), many = "many" in plot.dataset;
  const rule = make("i", "rule", plot), dot = make("i", "dot", plot), tip = make("span", "tip", plot);
  const all = [rule, dot, tip];
  const hide = () => all.forEach((node) => (node.hidden = true));
  hide();
  pointer(plot, (x, y, r) => {
    const across = (p) => Math.abs(p[0] - x), down = (p) => ((p[1] * r.height) / r.width - y);
    const point = nearest(points, (p) => (many ? Math.hypot(across(p), down(p)) : across(p)));
    all.forEach((node) => { node.hidden = false; place(node, point[0], point[1]); });
    rule.style.top = 0;
    tip.textContent = point[2];
  }, hide);
}
