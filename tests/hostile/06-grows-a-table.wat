;; Grows a table until it may not, and then gives up.
;; batch: memory
;; verdict: memory
(table $t 1 funcref)
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (loop $again
    (br_if $again (i32.ne (table.grow $t (ref.null func) (i32.const 9999)) (i32.const -1))))
  unreachable)
