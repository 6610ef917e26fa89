;; Hands a text of a million letters from one of its components to another, in another encoding, again and again: work
;; that takes time, and hardly any fuel.
;; batch: deadline
;; verdict: trap
;; says: ms of processor time, with fuel left
;; limit: verdict_time_ms 100
;; limit: fuel 1000000000
(component
  (component $reader
    (core module $m
      (memory (export "memory") 33)
      (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
      (func (export "read") (param i32 i32)))
    (core instance $i (instantiate $m))
    (func (export "read") (param "text" string) (canon lift (core func $i "read") (memory (core memory $i "memory"))
      (realloc (core func $i "realloc")) string-encoding=utf16)))
  (component $writer
    (import "read" (func $read (param "text" string)))
    $INCLUDE env
    (core func $read (canon lower (func $read) (memory (core memory $env "memory"))))
    (core instance $host (export "read" (func $read)))
    (core module $m
      (import "env" "memory" (memory 1))
      (import "host" "read" (func $read (param i32 i32)))
      $INCLUDE answers
      (func (export "process") (param $p i32) (param $n i32) (result i32)
        (drop (memory.grow (i32.const 16)))
        (memory.fill (i32.const 65536) (i32.const 97) (i32.const 1000000))
        (loop $again (call $read (i32.const 65536) (i32.const 1000000)) (br $again))
        unreachable))
    (core instance $i (instantiate $m (with "env" (instance $env)) (with "host" (instance $host))))
    $INCLUDE lift
    (export "process" (func $process)))
  (instance $reader (instantiate $reader))
  (instance $writer (instantiate $writer (with "read" (func $reader "read"))))
  (alias export $writer "process" (func $process))
  $INCLUDE face)
