// Niceties only: sorting by a click on a column head, and notes beside points for fingers as well as mice.
(function () {
  "use strict";
  document.querySelectorAll("table.sortable").forEach(function (table) {
    var body = table.tBodies[0];
    table.querySelectorAll("th[data-sort]").forEach(function (head) {
      head.tabIndex = 0;
      function sort() {
        var down = head.getAttribute("aria-sort") !== "descending";
        table.querySelectorAll("th[aria-sort]").forEach(function (h) { h.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        var key = head.dataset.sort;
        var rows = Array.from(body.rows).filter(function (r) { return !r.dataset.fixed; });
        function value(row) {
          var cell = row.querySelector('[data-column="' + key + '"] data');
          return cell ? parseFloat(cell.value) : NaN;
        }
        rows.sort(function (a, b) {
          var x = value(a), y = value(b);
          if (isNaN(x) || isNaN(y)) { return isNaN(x) - isNaN(y); }
          return down ? y - x : x - y;
        });
        var last = body.querySelector("tr[data-fixed]");
        rows.forEach(function (row) { body.insertBefore(row, last); });
      }
      head.addEventListener("click", sort);
      head.addEventListener("keydown", function (e) { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); sort(); } });
    });
  });
  var note = document.createElement("div");
  note.id = "tip";
  note.hidden = true;
  note.setAttribute("role", "status");
  document.body.appendChild(note);
  document.addEventListener("click", function (e) {
    var mark = e.target.closest ? e.target.closest("[data-tip]") : null;
    note.hidden = !mark;
    if (!mark) { return; }
    note.textContent = mark.dataset.tip;
    var box = mark.getBoundingClientRect();
    var left = Math.min(box.left + window.scrollX, window.scrollX + document.documentElement.clientWidth - note.offsetWidth - 8);
    note.style.left = Math.max(8, left) + "px";
    note.style.top = box.bottom + window.scrollY + 8 + "px";
  });
})();
