;; Writes more to stderr at once than the stream says it takes.
;; batch: trap
;; verdict: trap
;; says: wrote 65537 bytes at once
;; uses: wasi
;; limit: answer_bytes_max 1000000
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (drop (memory.grow (i32.const 2)))
  (call $print (call $stderr) (i32.const 1024) (i32.const 65537) (i32.const 700))
  (call $keep (local.get $p)))
