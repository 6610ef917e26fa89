;; Carries debug information in which a million functions are inlined one into the other, and traps: whoever reads it
;; by calling itself has no stack left.
;; batch: trap
;; verdict: trap
;; says: unreachable
(func $process (export "process") (param $p i32) (param $n i32) (result i32) unreachable)
;; Three forms of entry: a unit and a function, each with its place, and `a`, a function that was inlined.
(@custom ".debug_abbrev"
  "\01\11\01\11\01\12\06\00\00" "\02\2e\01\11\01\12\06\00\00" "\61\1d\01\00\00" "\00")
(@custom ".debug_info"
  "\59\42\0f\00\04\00\00\00\00\00\04" "\01\00\00\00\00\ff\ff\ff\00" "\02\00\00\00\00\ff\ff\ff\00"
  $REPEAT 10000 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
)
