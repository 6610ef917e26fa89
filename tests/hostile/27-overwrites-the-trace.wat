;; Sets the message's traceparent to another's.
;; batch: answers
;; verdict: answers
(data (i32.const 900) "WME1\01\00\00\00\01\00\00\00\00\00\00\00\07\00\0b\00\00\00\00\00\37\00\00\00traceparent00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (i32.store (i32.const 912) (i32.load offset=8 (local.get $p)))
  (call $ok (i32.const 900) (i32.const 94)))
