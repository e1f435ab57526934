// What onnxruntime's JavaScript makes of a file: its outputs for all images, or why it refuses. In Node and in a browser.
export async function answer(ort, model, job, options) {
  try {
    const session = await ort.InferenceSession.create(model, options);
    const [count, ...sides] = job.shape;
    const pixels = (job.dtype === "uint8" ? Uint8Array : Float32Array).from(job.pixels);
    const size = job.batch || count, length = sides.reduce((a, b) => a * b, 1);
    const outputs = {};
    for (let start = 0; start < count; start += size) {
      const piece = pixels.slice(start * length, (start + size) * length);
      const found = await session.run({ image: new ort.Tensor(job.dtype, piece, [size, ...sides]) });
      for (const [name, tail] of Object.entries(job.outputs)) {
        const flat = Array.from(found[name].data, (value) => (Number.isFinite(value) ? value : null));
        const rows = tail.length ? flat.flatMap((_, i) => (i % tail[0] ? [] : [flat.slice(i, i + tail[0])])) : flat;
        outputs[name] = (outputs[name] ?? []).concat(rows);
      }
    }
    return { outputs };
  } catch (error) {
    return { refused: String(error.message ?? error).trim().split("\n")[0] };
  }
}
