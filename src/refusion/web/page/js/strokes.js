/**
 * A mask as the list of what was done to it, which makes undoing simple and the mask sharp at any size.
 *
 * @typedef {{kind: "line", erase: boolean, radius: number, points: number[][]}} Line in pixels of the picture
 * @typedef {{kind: "clear"}} Clear
 * @typedef {{kind: "image", image: CanvasImageSource}} Layer opaque where the mask is
 * @typedef {Line | Clear | Layer} Stroke
 */

const THRESHOLD = 128;

/** Draw strokes in one colour on a canvas that shows the picture at this scale. */
export function drawStrokes(
  /** @type {CanvasRenderingContext2D} */ context,
  /** @type {Stroke[]} */ strokes,
  /** @type {number} */ scale,
  /** @type {string} */ colour,
) {
  const { width, height } = context.canvas;
  context.fillStyle = context.strokeStyle = colour;
  context.clearRect(0, 0, width, height);
  for (const stroke of strokes) {
    if (stroke.kind === "clear") context.clearRect(0, 0, width, height);
    else if (stroke.kind === "image") drawLayer(context, stroke);
    else drawLine(context, stroke, scale);
  }
}

function drawLayer(/** @type {CanvasRenderingContext2D} */ context, /** @type {Layer} */ layer) {
  const { width, height } = context.canvas;
  context.drawImage(layer.image, 0, 0, width, height);
  context.globalCompositeOperation = "source-atop";
  context.fillRect(0, 0, width, height);
  context.globalCompositeOperation = "source-over";
}

/** Draw one line in the colour of the context, or the part of it from a point on. */
export function drawLine(
  /** @type {CanvasRenderingContext2D} */ context,
  /** @type {Line} */ line,
  /** @type {number} */ scale,
  from = 0,
) {
  context.globalCompositeOperation = line.erase ? "destination-out" : "source-over";
  context.lineWidth = 2 * line.radius * scale;
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  const points = line.points.slice(Math.max(0, from));
  context.moveTo(points[0][0] * scale, points[0][1] * scale);
  for (const [x, y] of points) context.lineTo(x * scale, y * scale);
  context.stroke();
  context.globalCompositeOperation = "source-over";
}

/**
 * Return the mask as a PNG of the picture's size: white where it was painted, black elsewhere.
 *
 * @returns {Promise<File | null>} null if the browser cannot make a picture of this size
 */
export async function maskFile(/** @type {Stroke[]} */ strokes, /** @type {number[]} */ size) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = size;
  const context = canvas.getContext("2d");
  drawStrokes(context, strokes, 1, "#fff");
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return blob && new File([blob], "mask.png", { type: "image/png" });
}

/** Return the stroke that lays a mask file on the picture, or null if the browser cannot read it. */
export async function strokeOf(/** @type {File} */ file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return null;
  }
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    const painted = pixels.data[i] >= THRESHOLD;
    pixels.data.fill(255, i, i + 3);
    pixels.data[i + 3] = painted ? 255 : 0;
  }
  context.putImageData(pixels, 0, 0);
  return /** @type {Layer} */ ({ kind: "image", image: canvas });
}
