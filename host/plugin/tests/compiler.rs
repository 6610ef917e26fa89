//! Plugins that are compiled by a process of their own: they work as others do, and what eats the compiler's time
//! or memory costs that process alone.
//!
//! The sandbox starts this very program again as its compiler, so the test has a main of its own.

mod common;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use common::*;
use wasmill_engine::guest::Trial;
use wasmill_plugin::{Compiler, Grants, Limits, Sandbox, SandboxOptions, StageConfig, compile_for_parent};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["compile-plugin"] {
        return match compile_for_parent() {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("{why}");
                ExitCode::FAILURE
            }
        };
    }
    // As the tests' usual main takes it: a part of a name.
    let is_part = |a: &&String| !a.starts_with('-') && a.parse::<usize>().is_err();
    let asked = arguments.iter().find(is_part).map_or("", String::as_str);
    if arguments.iter().any(|a| a == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    for (name, test) in TESTS.iter().filter(|(name, _)| name.contains(asked)) {
        test();
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

const TESTS: [(&str, fn()); 5] = [
    ("what_is_compiled_elsewhere_runs_here_and_comes_from_the_cache_next_time", runs_here),
    ("what_the_compiler_refuses_is_refused_with_its_reason", is_refused),
    ("a_compile_bomb_ends_at_the_bound_of_time", ends_at_time),
    ("a_compile_bomb_ends_at_the_bound_of_memory", ends_at_memory),
    ("a_compiler_that_is_none_is_named", is_named),
];

fn this_program() -> Compiler {
    let program = std::env::current_exe().expect("this program");
    Compiler { program, arguments: vec!["compile-plugin".into()] }
}

fn compiling(compiler: Compiler, limits: Limits, cache: Option<PathBuf>) -> Sandbox {
    let options = SandboxOptions { limits, cache, compiler: Some(compiler), ..SandboxOptions::default() };
    Sandbox::new(options).expect("a sandbox")
}

fn refusal(sandbox: &Sandbox, component: &[u8]) -> String {
    let refused = sandbox.load_bytes("guest", component, &Grants::none(), StageConfig::new());
    refused.map(drop).expect_err("refused").to_string()
}

/// A transform with functions that take the compiler long.
fn bomb() -> Vec<u8> {
    let step =
        "(local.set 0 (i64.add (i64.mul (local.get 0) (local.get 1)) (i64.rotl (local.get 1) (local.get 0))))
        (if (i64.eqz (local.get 0)) (then (local.set 1 (i64.load (i32.wrap_i64 (local.get 0))))))";
    let function = format!("(func (param i64 i64) (result i64) {} (local.get 0))", step.repeat(8_000));
    transform_importing(&Imports::default(), &function.repeat(8), "unreachable")
}

fn runs_here() {
    let folder = tempfile::tempdir().expect("a folder");
    let keeps = transform("(call $keep (local.get $p))");
    let run = |compiler: Compiler| {
        let sandbox = compiling(compiler, small_limits(), Some(folder.path().to_owned()));
        let plugin = sandbox.load_bytes("guest", &keeps, &Grants::none(), StageConfig::new());
        let mut guest = plugin.unwrap_or_else(|e| panic!("{e}")).guest();
        for trial in [Trial::Batch, Trial::Verdict] {
            guest.transform(frame(3, 10).as_bytes(), &mut facts(3), trial).expect("it keeps");
        }
    };
    run(this_program());
    // Both modes come from the cache: this one could compile nothing.
    run(Compiler { program: "/nowhere/at-all".into(), arguments: Vec::new() });
}

fn is_refused() {
    let sandbox = compiling(this_program(), small_limits(), None);
    let text = beside("(core module $m (memory 1 2 shared)) (core instance (instantiate $m))");
    let error = refusal(&sandbox, &binary(&text));
    assert!(error.contains("can't be compiled") && error.contains("threads"), "{error}");
}

/// A transform, and beside it these items.
fn beside(items: &str) -> String {
    let ours = r#"
  (core module $c (memory (export "memory") 1) (func (export "f") (param i32 i32) (result i32) unreachable)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) unreachable))
  (core instance $i (instantiate $c))
  (func $f (param "frame" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $i "f") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (instance $face (export "process" (func $f)))
  (export "wasmill:plugin/transform@0.1.0" (instance $face))"#;
    format!("(component {items} {ours})")
}

fn ends_at_time() {
    let limits = Limits { compile_ms_max: 200, ..small_limits() };
    let error = refusal(&compiling(this_program(), limits, None), &bomb());
    assert!(
        error.contains("not compiled within 200 ms") && error.contains("`limits.compile_time`"),
        "{error}"
    );
}

fn ends_at_memory() {
    let limits = Limits { compile_bytes_max: 128 << 20, ..small_limits() };
    let sandbox = compiling(this_program(), limits, None);
    let error = refusal(&sandbox, &bomb());
    assert!(
        error.contains("within 134217728 bytes of memory") && error.contains("`limits.compile_memory`"),
        "{error}"
    );
    // What is small enough is compiled all the same.
    let keeps = transform("(call $keep (local.get $p))");
    let loaded = sandbox.load_bytes("guest", &keeps, &Grants::none(), StageConfig::new());
    loaded.map(drop).unwrap_or_else(|e| panic!("{e}"));
}

fn is_named() {
    let keeps = transform("(call $keep (local.get $p))");
    let arguments: Vec<OsString> = Vec::new();
    let of = |program: &str| {
        let compiler = Compiler { program: program.into(), arguments: arguments.clone() };
        refusal(&compiling(compiler, small_limits(), None), &keeps)
    };
    let error = of("/nowhere/at-all");
    assert!(error.contains("can't run the compiler /nowhere/at-all"), "{error}");
    let error = of("/bin/false");
    assert!(error.contains("the compiler ended with exit status: 1"), "{error}");
}
