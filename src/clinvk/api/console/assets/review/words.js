// The words that differ between a removed line and the added line in its place.

const WORD = /\w+|\s+|[^\w\s]/gu;
const MAX_CELLS = 40_000;
const MIN_COMMON = 0.4; // of the longer line; else the added line is another line

/** Return the changed ranges, as pairs of offsets, of the lines that have some. */
export function changedWords(lines) {
  const ranges = new Map();
  for (let index = 0; index < lines.length;) {
    const removed = blockOf(lines, index, "removed");
    const added = blockOf(lines, index + removed.length, "added");
    removed.slice(0, added.length).forEach((line, at) => {
      const [words, otherWords] = [line.text.match(WORD) ?? [], added[at].text.match(WORD) ?? []];
      const common = inCommon(words, otherWords);
      const length = common.reduce((sum, [word]) => sum + words[word].length, 0);
      if (length < MIN_COMMON * Math.max(line.text.length, added[at].text.length)) return;
      ranges.set(line, without(words, common.map(([word]) => word)));
      ranges.set(added[at], without(otherWords, common.map(([, word]) => word)));
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

/** Return the longest common subsequence of two lists, as pairs of indices; none if the lists are too long. */
function inCommon(one, other) {
  if (one.length * other.length > MAX_CELLS) return [];
  const lengths = Array.from({ length: one.length + 1 }, () => new Uint16Array(other.length + 1));
  for (let row = one.length - 1; row >= 0; row -= 1) {
    for (let column = other.length - 1; column >= 0; column -= 1) {
      lengths[row][column] = one[row] === other[column]
        ? lengths[row + 1][column + 1] + 1 : Math.max(lengths[row + 1][column], lengths[row][column + 1]);
    }
  }
  const pairs = [];
  for (let row = 0, column = 0; row < one.length && column < other.length;) {
    if (one[row] === other[column]) pairs.push([row++, column++]);
    else if (lengths[row + 1][column] >= lengths[row][column + 1]) row += 1;
    else column += 1;
  }
  return pairs;
}

/** Return the ranges of the words that are not in the `common` indices. */
function without(words, common) {
  const ends = [];
  words.forEach((word, index) => ends.push((ends[index - 1] ?? 0) + word.length));
  const isCommon = new Set(common);
  return ends.map((end, index) => [end - words[index].length, end]).filter((_, index) => !isCommon.has(index));
}
