//! `wasmill-pack IN.wasm OUT.wasm`: turns a core module that carries wit-bindgen's type sections into
//! a component, without the debugger's sections but with function names, for backtraces.

use std::path::Path;

use anyhow::{Context, bail};
use wasmparser::{Parser, Payload};
use wit_component::ComponentEncoder;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [input, output] = arguments.as_slice() else {
        bail!("usage: wasmill-pack IN.wasm OUT.wasm");
    };
    let (input, output) = (Path::new(input), Path::new(output));
    let module = std::fs::read(input).with_context(|| format!("can't read {}", input.display()))?;
    let component =
        pack(&module).with_context(|| format!("can't make a component of {}", input.display()))?;
    // Renamed into place, so that a host which watches the folder never sees half a file.
    let mut part = output.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    std::fs::write(&part, component)
        .and_then(|()| std::fs::rename(&part, output))
        .with_context(|| format!("can't write {}", output.display()))
}

fn pack(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    let component =
        ComponentEncoder::default().validate(true).module(&without_debug_sections(module)?)?.encode()?;
    Ok(component)
}

/// Copies a module section by section, but for those that only a debugger or a linker reads.
fn without_debug_sections(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    const HEADER_BYTES: usize = 8;
    let mut kept = module.get(..HEADER_BYTES).context("shorter than a module's header")?.to_vec();
    let mut at = HEADER_BYTES;
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload?;
        // A function body stands inside the code section, which was copied whole.
        if matches!(payload, Payload::CodeSectionEntry(_)) {
            continue;
        }
        let Some((_, range)) = payload.as_section() else { continue };
        let not_needed = match &payload {
            Payload::CustomSection(section) => is_not_needed(section.name()),
            _ => false,
        };
        let end = usize::try_from(range.end)?;
        if !not_needed {
            kept.extend_from_slice(&module[at..end]);
        }
        at = end;
    }
    Ok(kept)
}

fn is_not_needed(section: &str) -> bool {
    section.starts_with(".debug") || matches!(section, "producers" | "target_features")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(id: u8, name: &str, content: &[u8]) -> Vec<u8> {
        let mut body = vec![name.len() as u8];
        body.extend_from_slice(name.as_bytes());
        body.extend_from_slice(content);
        [vec![id, body.len() as u8], body].concat()
    }

    #[test]
    fn only_what_a_debugger_reads_goes() {
        let header = b"\0asm\x01\0\0\0".to_vec();
        let (debug, name, other) =
            (section(0, ".debug_line", b"xyz"), section(0, "name", b""), section(0, "mine", b"1"));
        let module = [header.clone(), debug, name.clone(), other.clone()].concat();
        assert_eq!(without_debug_sections(&module).expect("a module"), [header, name, other].concat());
    }

    #[test]
    fn what_is_no_module_is_refused() {
        assert!(pack(b"\0asm").is_err());
        assert!(pack(b"not a module at all").is_err());
    }
}
