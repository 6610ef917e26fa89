;; Sets a timestamp to the greatest number that there is, to close all windows.
;; batch: answers
;; verdict: answers
;; stage: answer
;; says: timestamp out of range
(data (i32.const 900) "WME1\01\00\00\00\01\00\00\00\00\00\00\00\05\00\00\00\00\00\00\00\08\00\00\00\ff\ff\ff\ff\ff\ff\ff\7f")
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (i32.store (i32.const 912) (i32.load offset=8 (local.get $p)))
  (call $ok (i32.const 900) (i32.const 36)))
