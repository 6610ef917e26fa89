;; Sets metadata whose name and value hold line ends and further headers. Metadata may be any text; a sink whose
;; headers can't hold it refuses the message.
;; batch: answers
;; verdict: answers
(data (i32.const 900) "WME1\01\00\00\00\01\00\00\00\00\00\00\00\07\00\19\00\00\00\00\00\27\00\00\00x: y\0d\0aNats-Msg-Id: forgedvalue\0d\0atraceparent: 00-forged\0d\0a\0d\0aGET / ")
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (i32.store (i32.const 912) (i32.load offset=8 (local.get $p)))
  (call $ok (i32.const 900) (i32.const 92)))
