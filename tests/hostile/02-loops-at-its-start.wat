;; Loops for ever in its start function, so before it is called.
;; batch: deadline
;; verdict: fuel
(func $start (loop $again (br $again)))
(start $start)
(func (export "process") (param $p i32) (param $n i32) (result i32) unreachable)
