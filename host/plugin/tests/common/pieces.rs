//! Pieces of components, as text.
#![allow(dead_code, reason = "each test binary uses a part")]

pub fn binary(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// The module that owns memory and allocation: `realloc` always gives 4096 and grows memory to fit.
pub const ENV: &str = r#"
  (core module $env
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $pages i32)
      (local.set $pages (i32.shr_u (i32.add (i32.add (local.get 3) (i32.const 4096)) (i32.const 65535)) (i32.const 16)))
      (if (i32.gt_u (local.get $pages) (memory.size))
        (then (if (i32.eq (memory.grow (i32.sub (local.get $pages) (memory.size))) (i32.const -1)) (then unreachable))))
      (i32.const 4096)))
  (core instance $env (instantiate $env))
"#;

/// The functions that answer: `ok(at, length)`, `err(at, length)`, and `keep(frame)`: no edits.
pub const ANSWERS: &str = r#"
    (func $answer (param $tag i32) (param $at i32) (param $length i32) (result i32)
      (i32.store8 (i32.const 32) (local.get $tag))
      (i32.store (i32.const 36) (local.get $at))
      (i32.store (i32.const 40) (local.get $length))
      (i32.const 32))
    (func $ok (param i32 i32) (result i32) (call $answer (i32.const 0) (local.get 0) (local.get 1)))
    (func $err (param i32 i32) (result i32) (call $answer (i32.const 1) (local.get 0) (local.get 1)))
    (func $keep (param $frame i32) (result i32)
      (i32.store (i32.const 76) (i32.load (i32.add (local.get $frame) (i32.const 8))))
      (call $ok (i32.const 64) (i32.const 16)))
    (data (i32.const 64) "WME1\01\00\00\00\00\00\00\00\00\00\00\00")
    (data (i32.const 128) "panic: no such airport at src/lib.rs:7")
    (data (i32.const 256) "\ff\fe")
    (data (i32.const 288) "n")
    (data (i32.const 320) "hits")
"#;

/// A transform whose `process` has this body; `$p` and `$n` are the frame's place and length.
pub fn transform(body: &str) -> Vec<u8> {
    transform_importing(&Imports::default(), "", body)
}

/// What a component imports: its declarations, how they are lowered, and the core module's imports.
#[derive(Default)]
pub struct Imports {
    pub declared: &'static str,
    pub lowered: &'static str,
    pub given: &'static str,
    pub core: &'static str,
}

/// As [`transform`], with imports, and more items in the core module.
pub fn transform_importing(imports: &Imports, items: &str, body: &str) -> Vec<u8> {
    let process = "(func (export \"process\") (param $p i32) (param $n i32) (result i32)";
    binary(&transform_of(&[imports], &format!("{items}\n{process} {body})")))
}

/// A transform whose core module has these items, among them the function that it exports as `process`.
pub fn transform_of(imports: &[&Imports], items: &str) -> String {
    let all =
        |part: fn(&Imports) -> &'static str| imports.iter().map(|i| part(i)).collect::<Vec<_>>().join("\n");
    let (declared, lowered) = (all(|i| i.declared), all(|i| i.lowered));
    let (given, core) = (all(|i| i.given), all(|i| i.core));
    format!(
        r#"(component
  {declared}
  {ENV}
  {lowered}
  (core instance $host {given})
  (core module $m
    (import "env" "memory" (memory 1))
    {core}
    {ANSWERS}
    {items})
  (core instance $i (instantiate $m (with "env" (instance $env)) (with "host" (instance $host))))
  {LIFT}
  {FACE})"#
    )
}

/// The function of the core instance `$i` as a component's.
pub const LIFT: &str = r#"(func $process (param "frame" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $i "process") (memory (core memory $env "memory")) (realloc (core func $env "realloc"))))"#;

/// The export of a transform.
pub const FACE: &str = r#"(instance $face (export "process" (func $process)))
  (export "wasmill:plugin/transform@0.1.0" (instance $face))"#;

/// As [`LIFT`], in the typed width; needs [`TYPES`].
pub const TYPED_LIFT: &str = r#"(func $process (param "messages" (list $message)) (result (result (list $outcome) (error string)))
    (canon lift (core func $i "process") (memory (core memory $env "memory")) (realloc (core func $env "realloc"))))"#;

/// As [`FACE`], in the typed width.
pub const TYPED_FACE: &str = r#"(instance $face (export "process" (func $process)))
  (export "wasmill:plugin/transform-typed@0.1.0" (instance $face))"#;

/// `$write (level, at, length)`.
pub const LOG: Imports = Imports {
    declared: r#"(import "wasmill:plugin/log@0.1.0" (instance $log
      (type $l (enum "error" "warn" "info" "debug"))
      (export "level" (type $level (eq $l)))
      (export "write" (func (param "level" $level) (param "text" string)))))"#,
    lowered: r#"(core func $write (canon lower (func $log "write") (memory (core memory $env "memory"))))"#,
    given: r#"(export "write" (func $write))"#,
    core: r#"(import "host" "write" (func $write (param i32 i32 i32)))"#,
};

/// `$next (message) -> u64`.
pub const RANDOM: Imports = Imports {
    declared: r#"(import "wasmill:plugin/random@0.1.0" (instance $random
      (export "next" (func (param "message" u32) (result u64)))))"#,
    lowered: r#"(core func $next (canon lower (func $random "next")))"#,
    given: r#"(export "next" (func $next))"#,
    core: r#"(import "host" "next" (func $next (param i32) (result i64)))"#,
};

/// `$add (at, length, by)`.
pub const METRICS: Imports = Imports {
    declared: r#"(import "wasmill:plugin/metrics@0.1.0" (instance $metrics
      (export "add" (func (param "name" string) (param "by" u64)))))"#,
    lowered: r#"(core func $add (canon lower (func $metrics "add") (memory (core memory $env "memory"))))"#,
    given: r#"(export "add" (func $add))"#,
    core: r#"(import "host" "add" (func $add (param i32 i32 i64)))"#,
};

/// `$increment (message, at, length, by, answer)`.
pub const STATE: Imports = Imports {
    declared: r#"(import "wasmill:plugin/state@0.1.0" (instance $state
      (export "increment" (func (param "message" u32) (param "name" string) (param "by" s64)
        (result (result s64 (error string)))))))"#,
    lowered: r#"(core func $increment (canon lower (func $state "increment")
      (memory (core memory $env "memory")) (realloc (core func $env "realloc"))))"#,
    given: r#"(export "increment" (func $increment))"#,
    core: r#"(import "host" "increment" (func $increment (param i32 i32 i32 i64 i32)))"#,
};

/// `$now () -> s64`.
pub const WALL_CLOCK: Imports = Imports {
    declared: r#"(import "wasmill:plugin/wall-clock@0.1.0" (instance $wall (export "now" (func (result s64)))))"#,
    lowered: r#"(core func $now (canon lower (func $wall "now")))"#,
    given: r#"(export "now" (func $now))"#,
    core: r#"(import "host" "now" (func $now (result i64)))"#,
};

/// `$secret (at, length, answer)`.
pub const SECRETS: Imports = Imports {
    declared: r#"(import "wasmill:plugin/secrets@0.1.0" (instance $secrets
      (export "get" (func (param "name" string) (result (result (list u8) (error string)))))))"#,
    lowered: r#"(core func $secret (canon lower (func $secrets "get")
      (memory (core memory $env "memory")) (realloc (core func $env "realloc"))))"#,
    given: r#"(export "secret" (func $secret))"#,
    core: r#"(import "host" "secret" (func $secret (param i32 i32 i32)))"#,
};

/// `$row (table at, length, key at, length, answer)`, `$rows` alike with blobs of keys.
pub const LOOKUP: Imports = Imports {
    declared: r#"(import "wasmill:plugin/lookup@0.1.0" (instance $lookup
      (export "get" (func (param "table" string) (param "key" string)
        (result (result (option (list u8)) (error string)))))
      (export "get-many" (func (param "table" string) (param "keys" (list u8))
        (result (result (list u8) (error string)))))))"#,
    lowered: r#"(core func $row (canon lower (func $lookup "get")
      (memory (core memory $env "memory")) (realloc (core func $env "realloc"))))
    (core func $rows (canon lower (func $lookup "get-many")
      (memory (core memory $env "memory")) (realloc (core func $env "realloc"))))"#,
    given: r#"(export "row" (func $row)) (export "rows" (func $rows))"#,
    core: r#"(import "host" "row" (func $row (param i32 i32 i32 i32 i32)))
    (import "host" "rows" (func $rows (param i32 i32 i32 i32 i32)))"#,
};

/// `$send (method at, length, URL at, length, headers at, count, body at, length, answer)`.
pub const HTTP: Imports = Imports {
    declared: r#"(import "wasmill:plugin/http@0.1.0" (instance $http
      (type $h' (record (field "name" string) (field "value" string)))
      (export "header" (type $h (eq $h')))
      (type $q' (record (field "method" string) (field "url" string) (field "headers" (list $h))
        (field "body" (list u8))))
      (export "request" (type $q (eq $q')))
      (type $a' (record (field "status" u16) (field "headers" (list $h)) (field "body" (list u8))))
      (export "response" (type $a (eq $a')))
      (export "send" (func (param "request" $q) (result (result $a (error string)))))))"#,
    lowered: r#"(core func $send (canon lower (func $http "send")
      (memory (core memory $env "memory")) (realloc (core func $env "realloc"))))"#,
    given: r#"(export "send" (func $send))"#,
    core: r#"(import "host" "send" (func $send (param i32 i32 i32 i32 i32 i32 i32 i32 i32)))"#,
};

/// What a foreign toolchain imports: `$stderr () -> stream`, `$print (stream, at, length, answer)`,
/// `$environment (answer)`, `$directories (answer)`, `$dice () -> u64`, `$socket (family, answer)`.
pub const WASI: Imports = Imports {
    declared: r#"
  (import "wasi:io/error@0.2.3" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $e))
  (import "wasi:io/streams@0.2.3" (instance $streams
    (export "output-stream" (type $o (sub resource)))
    (alias outer 1 $e (type $e'))
    (export "error" (type $error (eq $e')))
    (type $s (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $s)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $o)) (param "contents" (list u8)) (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $o))
  (import "wasi:cli/stderr@0.2.3" (instance $cli
    (alias outer 1 $o (type $o'))
    (export "output-stream" (type $o (eq $o')))
    (export "get-stderr" (func (result (own $o))))))
  (import "wasi:cli/environment@0.2.0" (instance $environment
    (export "get-environment" (func (result (list (tuple string string)))))))
  (import "wasi:filesystem/types@0.2.3" (instance $files
    (export "descriptor" (type $d (sub resource)))
    (type $k (enum "access" "other"))
    (export "error-code" (type $code (eq $k)))
    (export "[method]descriptor.sync" (func (param "self" (borrow $d)) (result (result (error $code)))))))
  (alias export $files "descriptor" (type $d))
  (import "wasi:filesystem/preopens@0.2.3" (instance $preopens
    (alias outer 1 $d (type $d'))
    (export "descriptor" (type $d (eq $d')))
    (export "get-directories" (func (result (list (tuple (own $d) string)))))))
  (import "wasi:random/random@0.2.1" (instance $chance (export "get-random-u64" (func (result u64)))))
  (import "wasi:sockets/tcp@0.2.3" (instance $tcp (export "tcp-socket" (type (sub resource)))))
  (alias export $tcp "tcp-socket" (type $t))
  (import "wasi:sockets/tcp-create-socket@0.2.3" (instance $create
    (alias outer 1 $t (type $t'))
    (export "tcp-socket" (type $t (eq $t')))
    (type $k (enum "unknown" "access-denied"))
    (export "error-code" (type $code (eq $k)))
    (type $f (enum "ipv4" "ipv6"))
    (export "ip-address-family" (type $family (eq $f)))
    (export "create-tcp-socket" (func (param "address-family" $family)
      (result (result (own $t) (error $code)))))))
  "#,
    lowered: r#"
  (core func $stderr (canon lower (func $cli "get-stderr")))
  (core func $print (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
    (memory (core memory $env "memory"))))
  (core func $environment (canon lower (func $environment "get-environment")
    (memory (core memory $env "memory")) (realloc (core func $env "realloc"))))
  (core func $directories (canon lower (func $preopens "get-directories")
    (memory (core memory $env "memory")) (realloc (core func $env "realloc"))))
  (core func $dice (canon lower (func $chance "get-random-u64")))
  (core func $socket (canon lower (func $create "create-tcp-socket") (memory (core memory $env "memory"))))
  (core func $sync (canon lower (func $files "[method]descriptor.sync") (memory (core memory $env "memory"))))"#,
    given: r#"
  (export "stderr" (func $stderr)) (export "print" (func $print)) (export "environment" (func $environment))
  (export "directories" (func $directories)) (export "dice" (func $dice)) (export "socket" (func $socket))
  (export "sync" (func $sync))"#,
    core: r#"
    (import "host" "stderr" (func $stderr (result i32)))
    (import "host" "print" (func $print (param i32 i32 i32 i32)))
    (import "host" "environment" (func $environment (param i32)))
    (import "host" "directories" (func $directories (param i32)))
    (import "host" "dice" (func $dice (result i64)))
    (import "host" "socket" (func $socket (param i32 i32)))
    (import "host" "sync" (func $sync (param i32 i32)))"#,
};

/// An aggregate of version 3 whose accumulators begin as `00`; `describe` has this body first.
pub fn aggregate(describe: &str) -> Vec<u8> {
    binary(&format!(
        r#"(component
  {ENV}
  (core module $m
    (import "env" "memory" (memory 1))
    {ANSWERS}
    (data (i32.const 512) "WML1\01\00\00\00\00\00\00\00\00\00\00\00")
    (func (export "describe") (result i32) {describe}
      (i32.store8 (i32.const 32) (i32.const 1))
      (i32.store (i32.const 36) (i32.const 3))
      (i32.store (i32.const 40) (i32.const 600))
      (i32.store (i32.const 44) (i32.const 1))
      (i32.const 32))
    (func (export "fold") (param i32 i32 i32 i32) (result i32) (call $ok (i32.const 512) (i32.const 16)))
    (func (export "blobs") (param i32 i32) (result i32) (call $ok (local.get 0) (local.get 1))))
  (core instance $i (instantiate $m (with "env" (instance $env))))
  (type $d' (record (field "commutative" bool) (field "state-version" u32) (field "initial" (list u8))))
  (import "wasmill:plugin/aggregate-types@0.1.0" (instance $types (export "description" (type (eq $d')))))
  (alias export $types "description" (type $description))
  (func $describe (result $description) (canon lift (core func $i "describe") (memory (core memory $env "memory"))))
  (func $fold (param "frame" (list u8)) (param "groups" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $i "fold") (memory (core memory $env "memory")) (realloc (core func $env "realloc"))))
  (func $blobs (param "accumulators" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $i "blobs") (memory (core memory $env "memory")) (realloc (core func $env "realloc"))))
  (instance $face (export "describe" (func $describe)) (export "fold" (func $fold))
    (export "merge" (func $blobs)) (export "finish" (func $blobs)))
  (export "wasmill:plugin/aggregate@0.1.0" (instance $face)))"#
    ))
}

/// A transform of the typed width that keeps every message but the second, which it drops.
pub fn typed_transform() -> Vec<u8> {
    binary(&format!(
        r#"(component
  {TYPES}
  {ENV}
  (core module $m
    (import "env" "memory" (memory 1))
    {ANSWERS}
    ;; An outcome has 72 bytes and keeps where they are zero; the frame's records end far before 60000.
    (func (export "process") (param i32 i32) (result i32)
      (memory.fill (i32.const 60000) (i32.const 0) (i32.const 1024))
      (i32.store8 (i32.const 60072) (i32.const 1))
      (call $ok (i32.const 60000) (local.get 1))))
  (core instance $i (instantiate $m (with "env" (instance $env))))
  {TYPED_LIFT}
  {TYPED_FACE})"#
    ))
}

/// The types of the typed width.
pub const TYPES: &str = r#"
  (import "wasmill:plugin/types@0.1.0" (instance $types
    (type $e' (record (field "name" string) (field "value" string) (field "json" bool)))
    (export "metadata-entry" (type $e (eq $e')))
    (type $m' (record (field "id" string) (field "type" string) (field "key" (option (list u8)))
      (field "payload" (list u8)) (field "timestamp" (option s64)) (field "metadata" (list $e))))
    (export "message" (type $m (eq $m')))
    (type $r' (record (field "message" $m) (field "output" (option string))))
    (export "routed" (type $r (eq $r')))
    (type $o' (variant (case "keep") (case "drop") (case "replace" $m) (case "several" (list $r))
      (case "fail" string)))
    (export "outcome" (type $o (eq $o')))))
  (alias export $types "message" (type $message))
  (alias export $types "outcome" (type $outcome))
"#;
