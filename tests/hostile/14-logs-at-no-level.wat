;; Calls the host with a number that is no level of the log.
;; batch: trap
;; verdict: trap
;; says: discriminant: 9
;; uses: log
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (call $write (i32.const 9) (i32.const 128) (i32.const 5))
  (call $keep (local.get $p)))
