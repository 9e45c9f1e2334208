"use strict";
// The table of invoices: unpacked from the page itself, searched and sorted here. Every text goes in as
// text (textContent), so that nothing a ledger holds is ever read as HTML.
(async () => {
  const PAGE = 100;
  const NUMBERS = new Set(["Amount", "Balance", "Requests", "Latency ms"]);
  const WORDS = new Set(["Outcome", "Reason", "Decided at (UTC)"]);
  const byId = (id) => document.getElementById(id);
  const status = byId("status");
  const body = document.querySelector("#table tbody");
  const heads = [...document.querySelectorAll("#table thead th")];
  const names = heads.map((head) => head.textContent);
  byId("tool").hidden = false;

  if (typeof DecompressionStream === "undefined") {
    status.textContent = "This browser is too old for the table (it needs one of 2023 or later).";
    return;
  }
  status.textContent = "Unpacking the rows…";
  const packed = Uint8Array.from(atob(byId("rows").textContent), (char) => char.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const columns = await new Response(unpacked).json();
  const count = columns[0].length;
  const column = Object.fromEntries(names.map((name, index) => [name, columns[index]]));
  column.Balance = column.Balance.map((text, row) => (text === "=" ? column.Amount[row] : text));
  const shown = names.filter((name) => column[name].length === count);
  heads.forEach((head, index) => { head.hidden = !shown.includes(names[index]); });

  const texts = ["Invoice", "Merchant", "Outcome", "Reason", "Amount", "Currency", "Decided at (UTC)", "Message"]
    .filter((name) => shown.includes(name)).map((name) => column[name]);
  const haystack = Array.from({ length: count }, (_, row) =>
    texts.map((values) => values[row]).join("\n").toLowerCase());

  for (const [id, name] of [["outcome", "Outcome"], ["reason", "Reason"]]) {
    for (const word of [...new Set(column[name])].sort()) byId(id).add(new Option(word.replaceAll("_", " "), word));
  }

  let sortedBy = null;
  let descending = false;
  let order = Array.from({ length: count }, (_, row) => row);
  let found = order;
  let start = 0;

  const key = (name) => {
    if (!NUMBERS.has(name)) return column[name];
    return column[name].map((value) => (value === "" || value === null ? NaN : Number(value)));
  };

  const sort = () => {
    order = Array.from({ length: count }, (_, row) => row);
    if (sortedBy === null) return;
    const keys = key(sortedBy);
    const sign = descending ? -1 : 1;
    const missing = (value) => value === "" || Number.isNaN(value);
    order.sort((one, other) => {
      const a = keys[one], b = keys[other];
      if (missing(a) || missing(b)) return missing(a) - missing(b) || one - other; // what is missing comes last
      return a < b ? -sign : a > b ? sign : one - other;
    });
  };

  const find = () => {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const outcome = byId("outcome").value;
    const reason = byId("reason").value;
    found = order.filter((row) =>
      (!outcome || column.Outcome[row] === outcome) && (!reason || column.Reason[row] === reason) &&
      words.every((word) => haystack[row].includes(word)));
    start = 0;
    show();
  };

  const show = () => {
    const rows = found.slice(start, start + PAGE).map((row) => {
      const line = document.createElement("tr");
      for (const name of shown) {
        const cell = document.createElement(name === "Invoice" ? "th" : "td");
        if (name === "Invoice") cell.scope = "row";
        if (NUMBERS.has(name)) cell.className = "number";
        else if (WORDS.has(name)) cell.className = "plain";
        else if (name === "Message") cell.className = "text";
        const value = column[name][row];
        const isWord = name === "Outcome" || name === "Reason";
        cell.textContent = value === null ? "" : isWord ? value.replaceAll("_", " ") : value;
        line.append(cell);
      }
      return line;
    });
    body.replaceChildren(...rows);
    const last = Math.min(start + PAGE, found.length);
    const number = (value) => value.toLocaleString("en-US");
    const of = found.length === count ? "" : `, found among ${number(count)}`;
    status.textContent = found.length
      ? `Rows ${number(start + 1)} to ${number(last)} of ${number(found.length)}${of}`
      : "No invoice is like that.";
    byId("back").disabled = start === 0;
    byId("on").disabled = last === found.length;
  };

  heads.forEach((head, index) => head.querySelector("button").addEventListener("click", () => {
    descending = sortedBy === names[index] && !descending;
    sortedBy = names[index];
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    sort();
    find();
  }));
  let waiting = 0;
  byId("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(find, 120);
  });
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("outcome").addEventListener("change", find);
  byId("reason").addEventListener("change", find);
  byId("back").addEventListener("click", () => { start = Math.max(0, start - PAGE); show(); });
  byId("on").addEventListener("click", () => { start += PAGE; show(); });
  find();
})();
