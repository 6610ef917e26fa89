//! `wasmill plugin embed`: puts test cases into a component.

use std::io::Write as _;
use std::path::Path;

use wasmill_plugin::{CASES_BYTES_MAX, CASES_SECTION};

use super::cases;
use super::exit::{Exit, Stop};
use super::{args, print, sandbox};

/// Puts cases into a component, as a section behind the others.
///
/// # Errors
/// When the component is none, the cases are wrong or too many, or the file can't be written.
pub fn run(args: &args::Embed) -> Result<(), Stop> {
    // A file that can't be read later is better refused now.
    let cases = cases::read(&args.cases)?;
    let shown = args.cases.display();
    cases::bounded(&cases).map_err(|e| Stop::error(Exit::Usage, format!("{shown}: {e}")))?;
    let text = cases::read_text(&args.cases, "a file of cases")?;
    if text.len() > CASES_BYTES_MAX {
        let title = format!("{shown} has {} bytes", text.len());
        return Err(Stop::error(Exit::Usage, format!("{title}; a plugin may carry {CASES_BYTES_MAX}")));
    }
    let sandbox = sandbox::open(None, 0)?;
    let there = sandbox.cases_in(&args.file).map_err(|e| Stop::error(Exit::Plugin, e))?;
    if !there.is_empty() {
        let text = format!("{} carries cases already: build it without them first", args.file.display());
        return Err(Stop::error(Exit::Plugin, text));
    }
    let mut component = wasmill_plugin::read_file(&args.file, wasmill_plugin::FILE_BYTES_MAX)
        .map_err(|e| Stop::error(Exit::Plugin, format!("can't read {}: {e}", args.file.display())))?;
    component.extend(custom_section(CASES_SECTION, text.as_bytes()));
    write(&args.output, &component)
        .map_err(|e| Stop::error(Exit::Failed, format!("can't write {}: {e}", args.output.display())))?;
    print(&format!("{}: {} cases\n", args.output.display(), cases.len()))
}

/// Renamed into place, so that a host which watches the folder never sees half a file.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    let written = std::fs::File::create(&part).and_then(|mut file| file.write_all(bytes));
    written.and_then(|()| std::fs::rename(&part, path)).inspect_err(|_| drop(std::fs::remove_file(&part)))
}

/// A custom section, as modules and components both have them: 0, its size, its name with its length, its bytes.
fn custom_section(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut body = leb128(name.len());
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(bytes);
    let mut section = vec![0];
    section.extend(leb128(body.len()));
    section.extend(body);
    section
}

fn leb128(mut n: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        // The low seven bits fit.
        let low = (n & 0x7f) as u8;
        n >>= 7;
        if n == 0 {
            out.push(low);
            return out;
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_laid_out_as_the_specification_says() {
        assert_eq!(custom_section("ab", b"xyz"), [0, 6, 2, b'a', b'b', b'x', b'y', b'z']);
        assert_eq!(leb128(0), [0]);
        assert_eq!(leb128(624_485), [0xe5, 0x8e, 0x26], "the example of the DWARF standard");
    }
}
