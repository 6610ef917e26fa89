//! What the environment changes in a spec: `WASMILL_…` variables, a few short names, and `${…}`.

use super::node::{Entry, Node, Scalar, Value, parse};
use super::secrets::hide;
use crate::report::{Diagnostic, Sources, Span, nearest};

/// The names without a prefix, and the keys they set.
pub const SHORT_NAMES: [(&str, &str); 5] = [
    ("WORKER_COUNT", "workers"),
    ("BATCH_SIZE", "batch_size"),
    ("PLUGIN_DIR", "plugin_dir"),
    ("DATA_DIR", "data_dir"),
    ("SHUTDOWN_TIMEOUT", "shutdown_timeout"),
];

/// What every other variable starts with; `__` stands between levels: `WASMILL_EPOCH__INTERVAL`.
pub const PREFIX: &str = "WASMILL_";

/// The variables that a spec is read with. A value of its own, so that tests need not change the
/// process's.
#[derive(Debug, Clone, Default)]
pub struct Environment(std::collections::BTreeMap<String, String>);

impl Environment {
    /// The process's variables; those that are not UTF-8 are unknown to wasmill.
    #[must_use]
    pub fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
                .collect(),
        )
    }

    /// These variables only.
    #[must_use]
    pub fn of<const N: usize>(variables: [(&str, &str); N]) -> Self {
        Self(variables.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }

    /// Sets one, as a command-line option does.
    pub fn set(&mut self, name: &str, value: String) {
        self.0.insert(name.to_owned(), value);
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// What a variable says; an empty one says nothing.
    #[must_use]
    pub fn given(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|v| !v.is_empty())
    }

    /// The variables that say something, by name.
    pub fn all_given(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter(|(_, v)| !v.is_empty()).map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// Writes what the variables say over the spec. An empty variable says nothing: compose files pass
    /// unset ones on as empty.
    ///
    /// # Errors
    /// The first variable whose name leads nowhere, with its place.
    pub fn overlay(&self, root: &mut Node, sources: &mut Sources) -> Result<(), Box<Diagnostic>> {
        for (name, key) in SHORT_NAMES {
            if let Some(value) = self.given(name) {
                let source = sources.add("environment", hide(&format!("{name}={value}")));
                let key_span = Span::new(source, 0, name.len());
                let node = value_of(value, source, name.len() + 1)?;
                set(root, &[(key.to_owned(), key_span)], node)?;
            }
        }
        for (name, value) in self.0.iter().filter(|(n, v)| n.starts_with(PREFIX) && !v.is_empty()) {
            let source = sources.add("environment", hide(&format!("{name}={value}")));
            let mut path = Vec::new();
            let mut at = PREFIX.len();
            for part in name[PREFIX.len()..].split("__") {
                let span = Span::new(source, at, at + part.len());
                if part.is_empty() {
                    return Err(Box::new(Diagnostic::at(
                        Span::new(source, 0, name.len()),
                        format!("`{name}` names no key"),
                        "a name must stand on each side of `__`",
                    )));
                }
                path.push((part.to_lowercase(), span));
                at += part.len() + 2;
            }
            let node = value_of(value, source, name.len() + 1)?;
            set(root, &path, node)?;
        }
        Ok(())
    }

    /// Replaces `${NAME}` and `${NAME:-default}` in every scalar; `$$` is one `$`.
    ///
    /// # Errors
    /// The first `${…}` that names an unset variable without a default, or is not closed.
    pub fn substitute(&self, node: &mut Node) -> Result<(), Box<Diagnostic>> {
        match &mut node.value {
            Value::Scalar(scalar) => {
                if scalar.text.contains('$') {
                    scalar.text =
                        self.expand(&scalar.text).map_err(|w| Box::new(self.explain(&w, node.span)))?;
                }
                Ok(())
            }
            Value::List(items) => items.iter_mut().try_for_each(|i| self.substitute(i)),
            Value::Map(entries) => entries.iter_mut().try_for_each(|e| self.substitute(&mut e.node)),
        }
    }

    fn explain(&self, wrong: &Unexpanded, span: Span) -> Diagnostic {
        let Unexpanded::Unset(name) = wrong else {
            return Diagnostic::at(span, "`${` without its `}`", "expected `${NAME}` or `${NAME:-default}`")
                .help("for a `$` itself write `$$`");
        };
        let title = format!("the environment variable `{name}` is not set");
        let diagnostic = Diagnostic::at(span, title, "used here");
        match nearest(name, self.0.keys().map(String::as_str)) {
            Some(near) => diagnostic.help(format!("the variable `{near}` is set: did you mean that?")),
            None => diagnostic.help(format!("set `{name}`, or give a default: `${{{name}:-default}}`")),
        }
    }

    fn expand(&self, text: &str) -> Result<String, Unexpanded> {
        let mut done = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            done.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                done.push('$');
                rest = after;
            } else if let Some(after) = rest.strip_prefix('{') {
                let Some(end) = after.find('}') else {
                    return Err(Unexpanded::Open);
                };
                let (name, default) = match after[..end].split_once(":-") {
                    Some((name, default)) => (name, Some(default)),
                    None => (&after[..end], None),
                };
                match self.given(name).or(default) {
                    Some(value) => done.push_str(value),
                    None => return Err(Unexpanded::Unset(name.to_owned())),
                }
                rest = &after[end + 1..];
            } else {
                done.push('$');
            }
        }
        done.push_str(rest);
        Ok(done)
    }
}

/// Why a `${…}` could not be replaced.
enum Unexpanded {
    /// It has no end.
    Open,
    /// No such variable, and no default.
    Unset(String),
}

/// A variable's value: a list or a map where it starts like one, else a scalar to the letter.
fn value_of(value: &str, source: u32, offset: usize) -> Result<Node, Box<Diagnostic>> {
    if value.starts_with(['[', '{']) {
        return parse(value, source, offset).map_err(Box::new);
    }
    let scalar = Scalar { text: value.to_owned(), plain: true };
    Ok(Node { value: Value::Scalar(scalar), span: Span::new(source, offset, offset + value.len()) })
}

fn set(node: &mut Node, path: &[(String, Span)], value: Node) -> Result<(), Box<Diagnostic>> {
    let Some(((key, key_span), rest)) = path.split_first() else {
        *node = value;
        return Ok(());
    };
    match &mut node.value {
        Value::List(items) => {
            let count = items.len();
            match key.parse::<usize>().ok().and_then(|i| items.get_mut(i)) {
                Some(item) => set(item, rest, value),
                None => Err(Box::new(Diagnostic::at(
                    *key_span,
                    format!("`{key}` names no element of this list of {count}"),
                    format!("expected a number below {count}"),
                ))),
            }
        }
        Value::Map(entries) => {
            if let Some(entry) = entries.iter_mut().find(|e| e.key.eq_ignore_ascii_case(key)) {
                // What is wrong with the value is then shown at the variable, not at the file's key.
                if rest.is_empty() {
                    entry.key_span = *key_span;
                }
                return set(&mut entry.node, rest, value);
            }
            let empty = Node { value: Value::Map(Vec::new()), span: *key_span };
            entries.push(Entry { key: key.clone(), key_span: *key_span, node: empty });
            let last = entries.len() - 1;
            set(&mut entries[last].node, rest, value)
        }
        Value::Scalar(scalar) if scalar.plain && scalar.text.is_empty() => {
            node.value = Value::Map(Vec::new());
            set(node, path, value)
        }
        Value::Scalar(scalar) => Err(Box::new(
            Diagnostic::at(
                *key_span,
                format!("`{key}` leads into `{}`, which is a single value", scalar.text),
                "this key can't be set here",
            )
            .help("write the value in the file in its long form, a map, to set parts of it by environment"),
        )),
    }
}
