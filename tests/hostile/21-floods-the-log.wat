;; Writes 900 lines to the log which clear the screen, change its colours, and hold lines that look like the host's.
;; What is above the limit of a second is dropped, and nothing but text gets through.
;; batch: answers
;; verdict: answers
;; uses: log
(data (i32.const 800) "\1b[2J\1b[31mred\0d\0a2026-01-01T00:00:00Z ERROR wasmill: forged\u{2028}\u{202e}\07")
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (local $lines i32)
  (loop $next
    (call $write (i32.and (local.get $lines) (i32.const 3)) (i32.const 800) (i32.const 63))
    (local.set $lines (i32.add (local.get $lines) (i32.const 1)))
    (br_if $next (i32.lt_u (local.get $lines) (i32.const 900))))
  (call $keep (local.get $p)))
