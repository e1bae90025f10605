// A list that renders only the rows in view. Rows may have any height, which is measured when they are shown.

import { html, Component } from "../vendor/preact.js";

const OVERSCAN_PX = 600;
const AT_END_PX = 60;
const FIRST_ROWS = 20;

/**
 * Props: `items`, `keyOf(item)`, `render(item)`, `estimate` (height of a row that was never shown, in pixels),
 * `sticksToEnd` (begin at the end, and stay there while items are added), `onStart` and `onEnd` (the first or last row
 * is in view), `onStick(isAtEnd)`, `label`.
 *
 * The list scrolls with the nearest element of the class `scroller`. The first row in view keeps its place when rows
 * above it change.
 */
export class VirtualList extends Component {
  constructor(props) {
    super(props);
    this.heights = new Map();
    this.offsets = [0];
    this.isAtEnd = Boolean(props.sticksToEnd);
    this.anchor = null;
    this.scrolledTo = 0;
    this.resized = new ResizeObserver(() => this.forceUpdate());
    this.observe = (row) => row && this.resized.observe(row); // the browser forgets rows that are gone
    this.onScroll = () => this._scrolled();
    this._place(props);
  }

  componentDidMount() {
    this.scroller = this.base.closest(".scroller");
    this.scroller.addEventListener("scroll", this.onScroll, { passive: true });
    this.resized.observe(this.scroller);
    this.resized.observe(this.base);
    this._restore();
    this.forceUpdate();
  }

  componentWillUnmount() {
    this.scroller.removeEventListener("scroll", this.onScroll);
    this.resized.disconnect();
  }

  componentWillReceiveProps(props) {
    if (props.items !== this.props.items) this._place(props);
  }

  componentDidUpdate() {
    if (this._measure()) this.forceUpdate(); // before the rows are painted
    this._restore();
  }

  scrollToEnd() {
    this.isAtEnd = true;
    this.scrolledTo = this.scroller.scrollTop;
    this._restore();
    this.props.onStick?.(true);
  }

  /** Compute where each row begins. */
  _place({ items, keyOf, estimate }) {
    const offsets = new Float64Array(items.length + 1);
    for (let index = 0; index < items.length; index++) {
      offsets[index + 1] = offsets[index] + (this.heights.get(keyOf(items[index])) ?? estimate);
    }
    this.offsets = offsets;
    if (this.heights.size > 2 * items.length + 100) this.heights.clear(); // rows of items that are gone
  }

  /** Return the row at a distance from the beginning of the list. */
  _rowAt(distance) {
    let [low, high] = [0, this.props.items.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.offsets[middle + 1] <= distance) low = middle + 1;
      else high = middle;
    }
    return Math.min(low, Math.max(0, this.props.items.length - 1));
  }

  /** Return the distance from the beginning of the list to the top of what is in view. */
  get _top() {
    return this.scroller.getBoundingClientRect().top - this.base.getBoundingClientRect().top;
  }

  /** Measure the rows. Return whether a height has changed. */
  _measure() {
    const { items, keyOf } = this.props;
    let isChanged = false;
    for (const row of this.base.querySelectorAll(".row")) {
      const item = items[row.dataset.index];
      if (!item) continue;
      const height = row.getBoundingClientRect().height;
      if (this.heights.get(keyOf(item)) === height) continue;
      this.heights.set(keyOf(item), height);
      isChanged = true;
    }
    if (isChanged) this._place(this.props);
    return isChanged;
  }

  _scrolled() {
    if (this.scroller.scrollTop !== this.scrolledTo) this._remember(); // else this list has scrolled itself
    const [first, last] = this._range();
    if (first !== this.first || last !== this.last) this.forceUpdate();
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    if (this._top < OVERSCAN_PX) this.props.onStart?.();
    if (scrollHeight - scrollTop - clientHeight < OVERSCAN_PX) this.props.onEnd?.();
  }

  /** Remember whether the end is in view, else the first row in view and how far it is scrolled out. */
  _remember() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    const isAtEnd = scrollHeight - scrollTop - clientHeight < AT_END_PX;
    if (isAtEnd !== this.isAtEnd) this.props.onStick?.(isAtEnd);
    this.isAtEnd = isAtEnd;
    const top = this._top;
    const { items, keyOf } = this.props;
    const row = this._rowAt(Math.max(0, top));
    this.anchor = items.length && top > 0 ? { key: keyOf(items[row]), row, beyond: top - this.offsets[row] } : null;
    this.scrolledTo = scrollTop;
  }

  /** Scroll to the end, or to where the remembered row is in view as before. */
  _restore() {
    if (!this.scroller) return;
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    const isShortened = this.scrolledTo > scrollHeight - clientHeight; // the browser has scrolled
    if (scrollTop !== this.scrolledTo && !isShortened) return; // the user scrolls: an event follows
    if (this.props.sticksToEnd && this.isAtEnd) this.scroller.scrollTop = this.scroller.scrollHeight;
    else if (this.anchor) this._restoreAnchor();
    this.scrolledTo = this.scroller.scrollTop;
  }

  _restoreAnchor() {
    const { items, keyOf } = this.props;
    const { key, row, beyond } = this.anchor;
    const found = items[row] && keyOf(items[row]) === key ? row : items.findIndex((item) => keyOf(item) === key);
    if (found < 0) return;
    const shift = this.offsets[found] + beyond - this._top;
    if (Math.abs(shift) > 1) this.scroller.scrollTop += shift;
  }

  /** Return the first row to render, and the row after the last. */
  _range() {
    const { items, sticksToEnd } = this.props;
    if (!this.scroller) return sticksToEnd ? [Math.max(0, items.length - FIRST_ROWS), items.length] : [0, FIRST_ROWS];
    const top = this._top;
    return [this._rowAt(top - OVERSCAN_PX), this._rowAt(top + this.scroller.clientHeight + OVERSCAN_PX) + 1];
  }

  render({ items, keyOf, render, label }) {
    const [first, last] = this._range();
    [this.first, this.last] = [first, last];
    return html`
      <div class="virtual-list" role="feed" aria-label=${label} style=${{ height: `${this.offsets[items.length]}px` }}>
        <div class="window" style=${{ paddingTop: `${Math.round(this.offsets[first] ?? 0)}px` }}>
          ${items.slice(first, last).map((item, index) => html`
            <div class="row" role="article" key=${keyOf(item)} ref=${this.observe} data-index=${first + index}
              aria-posinset=${first + index + 1} aria-setsize=${items.length}>${render(item)}</div>`)}
        </div>
      </div>`;
  }
}
