// The words that differ between a removed line and the added line in its place: all from the first to the last.

const WORD = /\w+|\s+|[^\w\s]/gu;
const MIN_COMMON = 0.4; // of the longer line; else the added line is another line

/** Return how many items two lists have in common at the beginning, and how many at the end. */
export function commonEnds(one, other) {
  const most = Math.min(one.length, other.length);
  let [start, end] = [0, 0];
  while (start < most && one[start] === other[start]) start += 1;
  while (end < most - start && one.at(-1 - end) === other.at(-1 - end)) end += 1;
  return [start, end];
}

/** Return the changed range, as a pair of offsets, of the lines that have one. */
export function changedWords(lines) {
  const ranges = new Map();
  for (let index = 0; index < lines.length;) {
    const removed = blockOf(lines, index, "removed");
    const added = blockOf(lines, index + removed.length, "added");
    removed.slice(0, added.length).forEach((line, at) => {
      const pair = [line, added[at]];
      const [words, otherWords] = pair.map(({ text }) => text.match(WORD) ?? []);
      const [start, end] = commonEnds(words, otherWords);
      const before = words.slice(0, start).join("").length;
      const after = words.slice(words.length - end).join("").length;
      const isSameLine = before + after >= MIN_COMMON * Math.max(...pair.map(({ text }) => text.length));
      if (isSameLine) pair.forEach((each) => ranges.set(each, [before, each.text.length - after]));
    });
    index += removed.length + added.length || 1;
  }
  return ranges;
}

function blockOf(lines, start, kind) {
  let end = start;
  while (lines[end]?.kind === kind) end += 1;
  return lines.slice(start, end);
}
