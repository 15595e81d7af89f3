// The map: a dot for each photo, where photos that look alike to the model lie together.
const MARGIN_PX = 10;
const NEAR_PX = 10;
const hues = (count) => Array.from({ length: count }, (_, at) => (at * 137.508) % 360);

class PhotoMap {
  // `onRegion([x0, y0, x1, y1])` is told a rectangle, from 0 to 1, `onPick(photo)` a dot.
  constructor(canvas, photos, { onRegion, onPick }) {
    this.canvas = canvas;
    this.photos = photos.filter((photo) => photo.xy);
    this.start = null;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.start = this.end = [event.offsetX, event.offsetY];
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.start) return;
      this.end = [event.offsetX, event.offsetY];
      this.draw();
    });
    canvas.addEventListener("pointercancel", () => { this.start = null; this.draw(); });
    canvas.addEventListener("pointerup", () => {
      if (!this.start) return;
      const [[left, top], [right, bottom]] = [this.start, this.end];
      this.start = null;
      if (Math.hypot(right - left, bottom - top) < 5) {
        const near = this.nearest(left, top);
        if (near) onPick(near);
        else this.draw();
        return;
      }
      const [x0, y0] = this.fraction(Math.min(left, right), Math.min(top, bottom));
      const [x1, y1] = this.fraction(Math.max(left, right), Math.max(top, bottom));
      onRegion([x0, y0, x1, y1]);
    });
  }

  size() { return [this.canvas.clientWidth, this.canvas.clientHeight]; }

  fraction(x, y) {
    const [width, height] = this.size();
    return [(x - MARGIN_PX) / (width - 2 * MARGIN_PX), (y - MARGIN_PX) / (height - 2 * MARGIN_PX)];
  }

  place([x, y]) {
    const [width, height] = this.size();
    return [MARGIN_PX + x * (width - 2 * MARGIN_PX), MARGIN_PX + y * (height - 2 * MARGIN_PX)];
  }

  nearest(x, y) {
    const distance = (photo) => Math.hypot(this.place(photo.xy)[0] - x, this.place(photo.xy)[1] - y);
    const [near] = [...this.photos].sort((one, other) => distance(one) - distance(other));
    return near && distance(near) <= NEAR_PX ? near : null;
  }

  // `look` is {shown: Set, current, colour(photo), region}; without one, the last one is drawn again.
  draw(look = this.look) {
    this.look = look;
    const [width, height] = this.size();
    if (!width || !look) return; // folded away
    const ratio = devicePixelRatio;
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const ink = getComputedStyle(this.canvas).color;
    const dot = (photo, radius) => {
      pen.beginPath();
      pen.arc(...this.place(photo.xy), radius, 0, 2 * Math.PI);
    };
    for (const isShown of [false, true]) {
      pen.globalAlpha = isShown ? 0.85 : 0.15;
      for (const photo of this.photos) {
        if (look.shown.has(photo) !== isShown) continue;
        pen.fillStyle = look.colour(photo);
        dot(photo, isShown ? 3.5 : 2.5);
        pen.fill();
      }
    }
    pen.globalAlpha = 1;
    pen.strokeStyle = ink;
    pen.lineWidth = 2;
    if (look.current?.xy) {
      dot(look.current, 7);
      pen.stroke();
    }
    const corners = this.start ? [this.start, this.end] : look.region && [this.place(look.region.slice(0, 2)), this.place(look.region.slice(2))];
    if (corners) {
      const [[left, top], [right, bottom]] = corners;
      pen.setLineDash([5, 4]);
      pen.strokeRect(left, top, right - left, bottom - top);
    }
  }
}
