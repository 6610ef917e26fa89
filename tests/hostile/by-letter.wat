;; Does what the payload's tenth byte says, as in {"harm":"l"}: this is no case of the table but the plugin of the tests
;; of whole pipelines. Each letter is a harm:
;;   l loops · t traps · p panics · m grows memory · d recurses · a answers neither way · u gives a reason that is no text
;;   o emits 1,001 messages · x sets the end of time · h floods the host with calls · e refuses the call
;;   g floods the log, which harms nobody: the message goes on
;; uses: log random
(data (i32.const 900) "WME1\01\00\00\00\01\00\00\00\00\00\00\00\05\00\00\00\00\00\00\00\08\00\00\00\ff\ff\ff\ff\ff\ff\ff\7f")
(data (i32.const 960) "\1b[31mred\0d\0aforged")
(func $deep (call $deep) (call $deep))
(func $flood
  (local $lines i32)
  (loop $next
    (call $write (i32.const 0) (i32.const 960) (i32.const 16))
    (local.set $lines (i32.add (local.get $lines) (i32.const 1)))
    (br_if $next (i32.lt_u (local.get $lines) (i32.const 10000)))))
;; 1,001 times the edit that emits a message behind message `$message`.
(func $emit (param $message i32) (param $n i32) (result i32)
  (local $at i32)
  (local $edits i32)
  (local.set $at (i32.mul (memory.size) (i32.const 65536)))
  (drop (memory.grow (i32.const 1)))
  (i64.store (local.get $at) (i64.const 0x131454d57))
  (i32.store offset=8 (local.get $at) (i32.const 1001))
  (i32.store offset=12 (local.get $at) (local.get $n))
  (loop $next
    (i32.store offset=16 (i32.add (local.get $at) (i32.mul (local.get $edits) (i32.const 12))) (i32.const 11))
    (i32.store offset=20 (i32.add (local.get $at) (i32.mul (local.get $edits) (i32.const 12))) (local.get $message))
    (i32.store offset=24 (i32.add (local.get $at) (i32.mul (local.get $edits) (i32.const 12))) (i32.const 0))
    (local.set $edits (i32.add (local.get $edits) (i32.const 1)))
    (br_if $next (i32.lt_u (local.get $edits) (i32.const 1001))))
  (call $ok (local.get $at) (i32.const 12028)))
;; The edit that sets a timestamp, of message `$message`.
(func $end-of-time (param $message i32) (param $n i32) (result i32)
  (i32.store (i32.const 912) (local.get $n))
  (i32.store (i32.const 920) (local.get $message))
  (call $ok (i32.const 900) (i32.const 36)))
(func (export "process") (param $p i32) (param $bytes i32) (result i32)
  (local $message i32)
  (local $n i32)
  (local $letter i32)
  (local.set $n (i32.load offset=8 (local.get $p)))
  (block $done
    (loop $next
      (br_if $done (i32.ge_u (local.get $message) (local.get $n)))
      ;; The frame's arena, and in it the payload's place.
      (local.set $letter
        (i32.load8_u offset=9
          (i32.add (i32.add (local.get $p) (i32.load offset=12 (local.get $p)))
            (i32.load offset=56 (i32.add (local.get $p) (i32.mul (local.get $message) (i32.const 56)))))))
      (if (i32.eq (local.get $letter) (i32.const 0x6c)) (then (loop $again (br $again))))
      (if (i32.eq (local.get $letter) (i32.const 0x74)) (then unreachable))
      (if (i32.eq (local.get $letter) (i32.const 0x70))
        (then (call $write (i32.const 0) (i32.const 128) (i32.const 38)) unreachable))
      (if (i32.eq (local.get $letter) (i32.const 0x6d))
        (then (loop $again (br_if $again (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable))
      (if (i32.eq (local.get $letter) (i32.const 0x64)) (then (call $deep)))
      (if (i32.eq (local.get $letter) (i32.const 0x61))
        (then (return (call $answer (i32.const 7) (i32.const 0) (i32.const 0)))))
      (if (i32.eq (local.get $letter) (i32.const 0x75)) (then (return (call $err (i32.const 256) (i32.const 2)))))
      (if (i32.eq (local.get $letter) (i32.const 0x65)) (then (return (call $err (i32.const 128) (i32.const 22)))))
      (if (i32.eq (local.get $letter) (i32.const 0x6f))
        (then (return (call $emit (local.get $message) (local.get $n)))))
      (if (i32.eq (local.get $letter) (i32.const 0x78))
        (then (return (call $end-of-time (local.get $message) (local.get $n)))))
      (if (i32.eq (local.get $letter) (i32.const 0x68))
        (then (loop $again (drop (call $next (local.get $message))) (br $again))))
      (if (i32.eq (local.get $letter) (i32.const 0x67)) (then (call $flood)))
      (local.set $message (i32.add (local.get $message) (i32.const 1)))
      (br $next)))
  (call $keep (local.get $p)))
