;; Loops for ever.
;; batch: deadline
;; verdict: fuel
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (loop $again (br $again)) unreachable)
