//! What isn't a plugin is refused with what it is, and what to do.

use wasmill_plugin::{Grants, Limits, Sandbox, SandboxOptions, StageConfig, Width};

use crate::common::*;

/// A component that exports this, an instance with one function of this type.
fn exporting(name: &str, function: &str, signature: &str) -> Vec<u8> {
    binary(&format!(
        r#"(component
  (core module $m (memory (export "memory") 1) (func (export "f") (param i32 i32) (result i32) unreachable)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) unreachable))
  (core instance $i (instantiate $m))
  (func $f {signature} (canon lift (core func $i "f") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (instance $face (export "{function}" (func $f)))
  (export "{name}" (instance $face)))"#
    ))
}

const FRAMES: &str = r#"(param "frame" (list u8)) (result (result (list u8) (error string)))"#;

#[test]
fn what_is_no_plugin_is_refused_with_a_hint() {
    let transform_name = "wasmill:plugin/transform@0.1.0";
    let keep = transform("(call $keep (local.get $p))");
    let importing = |import: &str| {
        binary(&format!(
            r#"(component (import "{import}" (instance $i (export "f" (func))))
  (core module $m (memory (export "memory") 1) (func (export "f") (param i32 i32) (result i32) unreachable)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) unreachable))
  (core instance $c (instantiate $m))
  (func $f {FRAMES} (canon lift (core func $c "f") (memory (core memory $c "memory")) (realloc (core func $c "realloc"))))
  (instance $face (export "process" (func $f)))
  (export "{transform_name}" (instance $face)))"#
        ))
    };
    let memory = |declared: &str| {
        binary(&format!(
            r#"(component (core module $b {declared}) (core instance (instantiate $b))
  (core module $m (memory (export "memory") 1) (func (export "f") (param i32 i32) (result i32) unreachable)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) unreachable))
  (core instance $c (instantiate $m))
  (func $f {FRAMES} (canon lift (core func $c "f") (memory (core memory $c "memory")) (realloc (core func $c "realloc"))))
  (instance $face (export "process" (func $f)))
  (export "{transform_name}" (instance $face)))"#
        ))
    };
    let cases: &[(&str, Vec<u8>, &[&str])] = &[
        ("an empty file", vec![], &["the file is empty"]),
        ("a core module", binary("(module)"), &["this is a core module; pack it into a component"]),
        ("WebAssembly text", b"\n(component)".to_vec(), &["WebAssembly text"]),
        ("a native program", b"\x7fELF\x02\x01".to_vec(), &["machine code"]),
        ("another file", b"%PDF-1.7".to_vec(), &["is it the right file?"]),
        ("a cut header", b"\0asm".to_vec(), &["ends within its header"]),
        ("a cut component", keep[..keep.len() / 2].to_vec(), &["cut short or damaged"]),
        ("a damaged component", [&keep[..], b"\xff\xff"].concat(), &["cut short or damaged"]),
        ("nothing exported", binary("(component)"), &["exports nothing"]),
        (
            "another interface",
            exporting("wasi:cli/run@0.2.0", "run", FRAMES),
            &["it exports `wasi:cli/run@0.2.0`", "wasmill:plugin/transform"],
        ),
        (
            "a newer contract",
            exporting("wasmill:plugin/transform@0.2.0", "process", FRAMES),
            &["version 0.2.0", "this wasmill version 0.1.0"],
        ),
        (
            "an import of a newer contract",
            importing("wasmill:plugin/log@0.3.1"),
            &["version 0.3.1", "this wasmill version 0.1.0", "wasmill:plugin/log@0.3.1"],
        ),
        (
            "another type",
            exporting(transform_name, "process", r#"(param "frame" (list s8)) (result u32)"#),
            &["`process` of `wasmill:plugin/transform@0.1.0` has another type"],
        ),
        ("another function", exporting(transform_name, "run", FRAMES), &["exports no function `process`"]),
        (
            "an unknown import",
            importing("acme:db/sql@1.0.0"),
            &["imports `acme:db/sql@1.0.0`", "doesn't have"],
        ),
        ("WASI that isn't there", importing("wasi:http/types@0.2.0"), &["wasi:http/types@0.2.0", "of WASI"]),
        ("a later WASI", importing("wasi:cli/environment@0.3.0"), &["wasi:cli/environment@0.3.0"]),
        ("an unknown function of WASI", importing("wasi:cli/environment@0.2.0"), &["has no `f`"]),
        ("a free import misused", importing("wasmill:plugin/log@0.1.0"), &["wasmill:plugin/log@0.1.0"]),
        ("more memory than the limit", memory("(memory 100)"), &["memory"]),
        ("too many memories", memory("(memory 1) (memory 1) (memory 1)"), &["memories"]),
        ("threads", memory("(memory 1 2 shared)"), &["threads"]),
        ("64-bit memory", memory("(memory i64 1)"), &["memory64"]),
        ("garbage collection", memory("(type (struct))"), &["gc"]),
        ("an aggregate that can't say what it is", aggregate("unreachable"), &["describe itself", "trapped"]),
        (
            "an aggregate that loops when asked",
            aggregate("(loop $again (br $again))"),
            &["describe itself", "used up its fuel of 1000000"],
        ),
    ];
    let sandbox = small_sandbox();
    for (name, bytes, expected) in cases {
        let refused = sandbox.load_bytes("guest", bytes, &Grants::all(), StageConfig::new());
        let error = refused.err().unwrap_or_else(|| panic!("{name}: admitted")).to_string();
        assert!(error.contains("guest"), "{name}: names the plugin: {error}");
        for text in *expected {
            assert!(error.contains(text), "{name}: {text:?} is not in: {error}");
        }
    }
}

#[test]
fn sizes_are_bounded_before_anything_is_compiled() {
    let keep = transform("(call $keep (local.get $p))");
    for (limits, expected) in [
        (Limits { file_bytes_max: keep.len() - 1, ..small_limits() }, "file_bytes_max"),
        (Limits { functions_max: 2, ..small_limits() }, "functions_max"),
        (Limits { function_bytes_max: 10, ..small_limits() }, "function_bytes_max"),
    ] {
        let refused = sandbox(limits).load_bytes("guest", &keep, &Grants::none(), StageConfig::new());
        let error = refused.err().expect("refused").to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// Red is a test that doesn't end: nobody writes into the FIFO.
#[cfg(target_os = "linux")]
#[test]
fn a_plugin_that_is_no_file_is_told_and_not_waited_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("odd@1.wasm");
    let made = std::process::Command::new("mkfifo").arg(&file).status().expect("mkfifo");
    assert!(made.success());
    let sandbox = small_sandbox();
    let told = [
        sandbox.load(&file, &Grants::none(), StageConfig::new()).err().expect("refused"),
        sandbox.identify(&file).expect_err("refused"),
        sandbox.declared(&file).expect_err("refused"),
        sandbox.cases_in(&file).expect_err("refused"),
        sandbox.inspect(&file).expect_err("refused"),
    ];
    let expected = format!(
        "can't read the plugin {}: it is a FIFO, no file: put a file in its place, or take it away",
        file.display()
    );
    for error in told {
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn the_names_of_functions_are_bounded_for_each_trap_copies_them() {
    let sandbox = small_sandbox();
    let load = |bytes: usize| {
        let named = format!("(func (@name \"{}\"))", "f".repeat(bytes));
        let component = transform_importing(&Imports::default(), &named, "(call $keep (local.get $p))");
        sandbox.load_bytes("guest", &component, &Grants::none(), StageConfig::new())
    };
    assert!(load(64 << 10).is_ok());
    let error = load((64 << 10) + 1).err().expect("refused").to_string();
    assert!(
        error.contains("the longest name of a function in bytes is 65537, above the limit of 65536"),
        "{error}"
    );
}

#[test]
fn passive_elements_are_counted_over_all_modules() {
    let sandbox = small_sandbox();
    let load = |last: usize| {
        let modules: String = [400, 300, last]
            .iter()
            .map(|items| format!("(core module (func $f) (elem func {}))", "$f ".repeat(*items)))
            .collect();
        let transform = transform_of(
            &[&Imports::default()],
            "(func (export \"process\") (param i32 i32) (result i32) unreachable)",
        );
        let component = binary(&transform.replacen("(component", &format!("(component {modules}"), 1));
        sandbox.load_bytes("guest", &component, &Grants::none(), StageConfig::new())
    };
    // A segment counts as an element itself.
    assert!(load(297).is_ok());
    let error = load(298).err().expect("refused").to_string();
    assert!(error.contains("the number of passive elements is 1001, above the limit of 1000"), "{error}");
}

#[test]
fn what_a_stranger_s_file_names_is_told_in_part_and_on_one_line() {
    let all: String = (0..20).map(|i| format!("(export \"acme:db/sql{i}@1.0.0\" (instance $i))")).collect();
    let exports = binary(&format!("(component (instance $i) {all})"));
    let sandbox = small_sandbox();
    let error =
        sandbox.load_bytes("guest", &exports, &Grants::none(), StageConfig::new()).err().expect("refused");
    let error = error.to_string();
    assert!(error.contains("`acme:db/sql15@1.0.0` and 4 others") && !error.contains("sql16"), "{error}");

    // What a name has is checked by the compiler alone, behind whatever tells of it.
    let importing = binary(&format!(
        "(component (import \"acme:db/sql@1.0.0\" (instance (export \"f\" (func)))) {}",
        transform_of(&[], "(func (export \"process\") (param i32 i32) (result i32) unreachable)")
            .split_once('\n')
            .expect("lines")
            .1
    ));
    let at = importing.windows(4).position(|w| w == b"acme").expect("the import");
    let mut importing = importing;
    importing[at..at + 4].copy_from_slice(b"\x1b[1m");
    let directory = std::env::temp_dir().join(format!("wasmill-names-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("directory");
    let path = directory.join("enrich.wasm");
    std::fs::write(&path, &importing).expect("write");
    let seen = sandbox.inspect(&path).expect("inspected");
    assert_eq!(seen.imports[0].name, "\\x1b[1m:db/sql@1.0.0");
    std::fs::remove_dir_all(directory).expect("clean up");
}

#[test]
fn what_each_new_key_begins_with_is_bounded() {
    let begins_with = |bytes: usize| {
        aggregate(&format!(
            "(drop (memory.grow (i32.const 32)))
      (i32.store8 (i32.const 32) (i32.const 1))
      (i32.store (i32.const 40) (i32.const 0))
      (i32.store (i32.const 44) (i32.const {bytes}))
      (return (i32.const 32))"
        ))
    };
    let sandbox = sandbox(Limits { answer_bytes_max: 4 << 20, ..small_limits() });
    let load = |bytes| sandbox.load_bytes("guest", &begins_with(bytes), &Grants::none(), StageConfig::new());
    assert!(load(1 << 20).is_ok());
    let error = load((1 << 20) + 1).err().expect("refused").to_string();
    assert!(error.contains("initial accumulator has 1048577 bytes; up to 1048576"), "{error}");
}

#[test]
fn a_plugin_says_what_it_is() {
    let sandbox = small_sandbox();
    let load = |bytes: &[u8]| {
        let plugin = sandbox.load_bytes("guest", bytes, &Grants::all(), StageConfig::new());
        plugin.unwrap_or_else(|e| panic!("{e}")).info().clone()
    };
    let keep = "(call $keep (local.get $p))";
    let plain = load(&transform(keep));
    assert!(plain.kinds.transform && !plain.kinds.aggregate && !plain.needs_facts && !plain.needs_state);
    assert_eq!(plain.digest.len(), 64);
    assert!(load(&transform_importing(&RANDOM, "", keep)).needs_facts);
    assert!(load(&transform_importing(&STATE, "", keep)).needs_state);
    assert!(load(&transform_importing(&WASI, "", keep)).needs_facts, "WASI's random numbers are seeded too");
    let described = load(&aggregate("")).aggregate.expect("described");
    assert_eq!((described.commutative, described.state_version, &described.initial[..]), (true, 3, &[0][..]));
}

#[test]
fn inspection_tells_what_loading_would_meet() {
    let directory = std::env::temp_dir().join(format!("wasmill-inspect-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("directory");
    let path = directory.join("enrich.wasm");
    std::fs::write(&path, transform_importing(&STATE, "", "(call $keep (local.get $p))")).expect("write");
    let seen = small_sandbox().inspect(&path).expect("inspected");
    assert_eq!((seen.name.as_str(), &seen.widths[..]), ("enrich", &[Width::Frames][..]));
    assert_eq!(seen.exports, ["wasmill:plugin/transform@0.1.0"]);
    assert_eq!(seen.imports[0].grant.map(|g| g.name()), Some("state"));
    assert_eq!(seen.problem, None);
    let missing = small_sandbox().inspect(&directory.join("absent.wasm")).expect_err("no file").to_string();
    assert!(missing.contains("absent.wasm"), "{missing}");
    std::fs::remove_dir_all(directory).expect("clean up");
}

#[test]
fn the_cache_spares_compiling_and_trusts_nothing_foreign() {
    let directory = std::env::temp_dir().join(format!("wasmill-aot-{}", std::process::id()));
    drop(std::fs::remove_dir_all(&directory));
    let options = || SandboxOptions {
        limits: small_limits(),
        cache: Some(directory.clone()),
        ..SandboxOptions::default()
    };
    let keep = transform("(call $keep (local.get $p))");
    let load = || {
        let sandbox = Sandbox::new(options()).expect("sandbox");
        let plugin = sandbox.load_bytes("guest", &keep, &Grants::none(), StageConfig::new()).expect("loaded");
        let answer = plugin.guest().transform(
            frame(2, 5).as_bytes(),
            &mut facts(2),
            wasmill_engine::guest::Trial::Batch,
        );
        answer.expect("answer").len()
    };
    let entries = || {
        let all = std::fs::read_dir(&directory).expect("directory").flatten().map(|e| e.path());
        let mut all = all.filter(|p| p.extension().is_some_and(|e| e == "aot")).collect::<Vec<_>>();
        all.sort();
        all
    };
    assert_eq!(load(), 16);
    let all = entries();
    assert_eq!(all.len(), 2, "for production and for verdicts: what is admitted can be judged");
    let entry = &all[0];
    let written = std::fs::metadata(entry).expect("meta").modified().expect("time");
    assert_eq!(load(), 16);
    assert_eq!(entries(), all, "nothing was compiled again");
    assert_eq!(std::fs::metadata(entry).expect("meta").modified().expect("time"), written);

    let whole = std::fs::read(entry).expect("read");
    let mut tampered = whole.clone();
    *tampered.last_mut().expect("bytes") ^= 1;
    for foreign in [tampered, whole[..100].to_vec(), keep.clone(), vec![]] {
        std::fs::write(entry, &foreign).expect("write");
        assert_eq!(load(), 16);
        assert_ne!(std::fs::read(entry).expect("read"), foreign, "compiled again");
    }
    std::fs::remove_dir_all(&directory).expect("clean up");
}
