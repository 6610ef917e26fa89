//! One renderer for every mistake in a file: file, line and column, the text underlined, what was
//! expected, the nearest right name.

mod nearest;

pub use nearest::{did_you_mean, nearest};

use std::io::IsTerminal;
use std::path::Path;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{Annotation, AnnotationKind, Level, Renderer, Snippet};

/// The width that texts are laid out for where no terminal says another.
const WIDTH_COLUMNS: usize = 110;

/// A stretch of bytes of one of the [`Sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// Which source.
    pub source: u32,
    /// Its first byte.
    pub start: u32,
    /// The byte behind its last one.
    pub end: u32,
}

impl Span {
    /// A span of a source.
    #[must_use]
    pub fn new(source: u32, start: usize, end: usize) -> Self {
        let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { source, start: clamp(start), end: clamp(end.max(start)) }
    }
}

/// A text that mistakes can be shown in.
#[derive(Debug, Clone)]
struct SourceText {
    name: String,
    text: String,
}

/// The texts that a pipeline was read from: its file, then one for each environment variable.
#[derive(Debug, Clone, Default)]
pub struct Sources(Vec<SourceText>);

impl Sources {
    /// Adds a text under the name that is shown for it.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<String>) -> u32 {
        self.0.push(SourceText { name: name.into(), text: text.into() });
        u32::try_from(self.0.len() - 1).unwrap_or(u32::MAX)
    }

    /// Puts stars in the place of a span, so that no mistake shows it. The length stays.
    pub fn hide(&mut self, span: Span) {
        let Some(source) = self.0.get_mut(span.source as usize) else { return };
        let hidden = range(span, &source.text);
        let stars: String = source.text[hidden.clone()]
            .chars()
            .flat_map(|c| std::iter::repeat_n(if c == '\n' { '\n' } else { '*' }, c.len_utf8()))
            .collect();
        source.text.replace_range(hidden, &stars);
    }

    /// The bytes of a span; empty where it is outside its text.
    #[must_use]
    pub fn slice(&self, span: Span) -> &str {
        self.0
            .get(span.source as usize)
            .and_then(|s| s.text.get(span.start as usize..span.end as usize))
            .unwrap_or_default()
    }
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong, in one line.
    pub title: String,
    /// Where.
    pub span: Option<Span>,
    /// What stands beside the underlined text.
    pub label: String,
    /// Another place that matters, with its label.
    pub also: Vec<(Span, String)>,
    /// What to do, one line each.
    pub help: Vec<String>,
}

impl Diagnostic {
    /// A mistake without a place yet.
    #[must_use]
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), span: None, label: String::new(), also: Vec::new(), help: Vec::new() }
    }

    /// A mistake at a place.
    #[must_use]
    pub fn at(span: Span, title: impl Into<String>, label: impl Into<String>) -> Self {
        Self { span: Some(span), label: label.into(), ..Self::new(title) }
    }

    /// Adds another place.
    #[must_use]
    pub fn also(mut self, span: Span, label: impl Into<String>) -> Self {
        self.also.push((span, label.into()));
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }
}

/// The mistakes found in one file, ready to be shown.
#[derive(Debug, Clone)]
pub struct Problems {
    /// The texts they are in.
    pub sources: Sources,
    /// The mistakes in the order they were found; at least one.
    pub diagnostics: Vec<Diagnostic>,
}

impl Problems {
    /// One mistake in one file, for formats that know a line and column at most.
    #[must_use]
    pub fn in_file(path: &Path, text: &str, diagnostic: impl FnOnce(u32) -> Diagnostic) -> Self {
        let mut sources = Sources::default();
        let source = sources.add(path.display().to_string(), text);
        Self { diagnostics: vec![diagnostic(source)], sources }
    }

    /// The mistakes as text, with colours or without.
    #[must_use]
    pub fn render(&self, colours: bool) -> String {
        let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
        let renderer = renderer.decor_style(DecorStyle::Ascii).term_width(WIDTH_COLUMNS);
        let shown: Vec<String> = self.diagnostics.iter().map(|d| self.render_one(d, &renderer)).collect();
        shown.join("\n\n")
    }

    fn snippet<'a>(&'a self, diagnostic: &'a Diagnostic, span: Span) -> Option<Snippet<'a, Annotation<'a>>> {
        let source = self.sources.0.get(span.source as usize)?;
        let mark = |kind: AnnotationKind, span: Span, label: &'a str| {
            kind.span(range(span, &source.text)).label(label)
        };
        let also = diagnostic.also.iter().filter(|(other, _)| other.source == span.source);
        Some(
            Snippet::source(source.text.as_str())
                .path(source.name.as_str())
                .annotation(mark(AnnotationKind::Primary, span, &diagnostic.label))
                .annotations(also.map(|(other, label)| mark(AnnotationKind::Context, *other, label))),
        )
    }

    fn render_one(&self, diagnostic: &Diagnostic, renderer: &Renderer) -> String {
        let snippet = diagnostic.span.and_then(|span| self.snippet(diagnostic, span));
        let mut group = Level::ERROR.primary_title(diagnostic.title.as_str()).elements(snippet);
        for help in &diagnostic.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }
}

impl std::fmt::Display for Problems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Problems {}

/// The span as a range that lies in the text, on its characters' borders, and is never empty where
/// there is anything to underline.
fn range(span: Span, text: &str) -> std::ops::Range<usize> {
    let floor = |at: u32| text.floor_char_boundary((at as usize).min(text.len()));
    let (start, mut end) = (floor(span.start), floor(span.end));
    if end == start {
        end += text[start..].chars().next().filter(|c| *c != '\n').map_or(0, char::len_utf8);
    }
    start..end
}

/// Whether texts for people may have colours: a terminal that does not say NO_COLOR.
#[must_use]
pub fn colours_on_stderr() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && std::io::stderr().is_terminal()
}
