;; Uses a handle of a file, which it was never given.
;; batch: trap
;; verdict: trap
;; says: handle
;; uses: wasi
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (call $sync (i32.const 1) (i32.const 700)) unreachable)
