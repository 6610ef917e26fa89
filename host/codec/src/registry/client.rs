//! Asks a registry.

use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::{Client, Method, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Reference, Registered, RegistrySettings, SchemaKind};
use crate::CodecError;
use crate::asking::{self, NOT_TRUSTED, beginning, cause, on_one_line};

/// What an answer may have.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// How much of what a registry says is shown.
const SHOWN_BYTES: usize = 2 << 10;
/// How many schemas one may refer to, directly or not.
const REFERENCES_MAX: usize = 256;
/// How deep they may refer to each other.
const REFERENCE_DEPTH_MAX: usize = 32;
/// What their texts may have in all.
const REFERENCES_BYTES_MAX: usize = 16 << 20;
/// How many reasons are shown why a schema is incompatible.
const REASONS_MAX: usize = 8;

/// A client of a registry. Clones share its connections.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    client: Client,
    urls: Vec<Base>,
    /// Which URL has answered last.
    first: AtomicUsize,
    auth: Auth,
    subject: Option<String>,
    register: bool,
}

struct Base {
    url: Url,
    /// Without what may be secret.
    shown: String,
}

/// A user, and its password.
type User = (String, Option<String>);

enum Auth {
    None,
    User(String, Option<String>),
    Token(String),
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registry({self})")
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, base) in self.0.urls.iter().enumerate() {
            write!(f, "{}{}", if at > 0 { ", " } else { "" }, base.shown)?;
        }
        Ok(())
    }
}

/// Why a schema can't be had.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The registry can't be asked, or not like this.
    Asking(CodecError),
    /// The registry has it, but not whole, or not as wasmill knows schemas: it is the schema's fault.
    Broken(String),
}

impl From<CodecError> for Trouble {
    fn from(e: CodecError) -> Self {
        Self::Asking(e)
    }
}

/// A schema as the API writes it.
#[derive(Deserialize)]
struct SchemaAnswer {
    schema: String,
    #[serde(rename = "schemaType")]
    kind: Option<String>,
    #[serde(default)]
    references: Option<Vec<ReferenceJson>>,
    #[serde(default)]
    id: u32,
    #[serde(default)]
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct ReferenceJson {
    name: String,
    subject: String,
    version: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SchemaQuestion<'a> {
    schema: &'a str,
    schema_type: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    references: Vec<ReferenceJson>,
}

impl<'a> SchemaQuestion<'a> {
    fn of(schema: &'a Registered) -> Self {
        let direct = schema.references.iter().filter(|r| r.direct).map(|r| ReferenceJson {
            name: r.name.clone(),
            subject: r.subject.clone(),
            version: r.version,
        });
        Self { schema: &schema.text, schema_type: schema.kind.name(), references: direct.collect() }
    }
}

#[derive(Deserialize)]
struct IdAnswer {
    id: u32,
}

#[derive(Deserialize)]
struct CompatibleAnswer {
    is_compatible: bool,
    #[serde(default)]
    messages: Vec<String>,
}

/// A registry's "no".
struct No {
    status: StatusCode,
    /// The API's own number for it, if the answer has one.
    code: u32,
    said: String,
}

impl No {
    /// Whether what was asked for isn't there, while the API is.
    fn is_unknown(&self) -> bool {
        self.status == StatusCode::NOT_FOUND && (40_401..40_500).contains(&self.code)
    }
}

#[derive(Deserialize)]
struct NoJson {
    #[serde(default)]
    error_code: u32,
    #[serde(default)]
    message: Option<String>,
}

/// How one URL did.
enum Attempt {
    Answer(Vec<u8>),
    No(No),
    /// Another URL may do better, or the same later.
    Away(String),
    Wrong(String),
}

impl Registry {
    /// A client by these settings; it asks nothing yet.
    ///
    /// # Errors
    /// What is wrong with the settings or their files.
    pub fn new(settings: &RegistrySettings) -> Result<Self, CodecError> {
        Self::of(settings).map_err(|why| CodecError::Wrong(format!("registry: {why}")))
    }

    fn of(settings: &RegistrySettings) -> Result<Self, String> {
        let mut in_url = None;
        let mut urls = Vec::new();
        for url in settings.url.iter() {
            let (base, user) = base(url)?;
            urls.push(base);
            in_url = in_url.or(user);
        }
        if urls.is_empty() {
            return Err("`url` has no URL: name the registry, such as http://registry:8081".to_owned());
        }
        if settings.timeout.0.is_zero() {
            return Err("`timeout` of 0: expected a duration such as 10s".to_owned());
        }
        let auth = match (&settings.user, &settings.password, &settings.token) {
            (None, Some(_), _) => return Err("`password` without `user`: set both".to_owned()),
            (Some(_), _, Some(_)) => {
                return Err("`token` beside `user`: set one of them".to_owned());
            }
            (None, None, Some(token)) if in_url.is_none() => Auth::Token(token.reveal().to_owned()),
            (None, None, Some(_)) => {
                return Err("`token` beside a user in `url`: set one of them".to_owned());
            }
            (Some(_), _, None) if in_url.is_some() => {
                return Err("`user` beside a user in `url`: set one of them".to_owned());
            }
            (Some(user), password, None) => {
                Auth::User(user.clone(), password.as_ref().map(|p| p.reveal().to_owned()))
            }
            (None, None, None) => in_url.map_or(Auth::None, |(user, password)| Auth::User(user, password)),
        };
        let mut builder = asking::client(settings.timeout.0);
        if let Some(file) = &settings.ca_file {
            builder = asking::trusting(builder, file)?;
        }
        builder = match (&settings.cert_file, &settings.key_file) {
            (None, None) => builder,
            (Some(certificate), Some(key)) => asking::showing(builder, certificate, key)?,
            (Some(_), None) => return Err("`cert_file` without `key_file`: set both".to_owned()),
            (None, Some(_)) => return Err("`key_file` without `cert_file`: set both".to_owned()),
        };
        let client = builder.build().map_err(|e| format!("cannot make an HTTP client: {}", cause(&e)))?;
        Ok(Self(Arc::new(Inner {
            client,
            urls,
            first: AtomicUsize::new(0),
            auth,
            subject: settings.subject.clone(),
            register: settings.register,
        })))
    }

    /// The schema of a number; none where the registry has none.
    ///
    /// # Errors
    /// [`CodecError::Away`] where asking again may help.
    pub async fn by_id(&self, id: u32) -> Result<Option<Registered>, CodecError> {
        match self.whole_by_id(id).await {
            Ok(found) => Ok(found),
            Err(Trouble::Asking(e)) => Err(e),
            Err(Trouble::Broken(why)) => Err(CodecError::Wrong(format!("schema registry {self}: {why}"))),
        }
    }

    pub(super) async fn whole_by_id(&self, id: u32) -> Result<Option<Registered>, Trouble> {
        let what = format!("reading schema {id}");
        let text = id.to_string();
        let answer: Result<SchemaAnswer, No> =
            self.ask(&what, Method::GET, &["schemas", "ids", &text], "", None).await?;
        match answer {
            Ok(answer) => Ok(Some(self.whole(&format!("schema {id}"), answer).await?)),
            Err(no) if no.is_unknown() => Ok(None),
            Err(no) => Err(self.wrong(&what, &no).into()),
        }
    }

    /// The newest schema of a subject and its number; none where the registry has no such subject.
    ///
    /// # Errors
    /// As of `by_id`.
    pub async fn latest(&self, subject: &str) -> Result<Option<(u32, Registered)>, CodecError> {
        let what = format!("reading the latest schema of subject `{subject}`");
        let path = ["subjects", subject, "versions", "latest"];
        let answer: Result<SchemaAnswer, No> = self.ask(&what, Method::GET, &path, "", None).await?;
        match answer {
            Ok(answer) => {
                let id = answer.id;
                match self.whole(&format!("the latest schema of subject `{subject}`"), answer).await {
                    Ok(whole) => Ok(Some((id, whole))),
                    Err(Trouble::Asking(e)) => Err(e),
                    Err(Trouble::Broken(why)) => {
                        Err(CodecError::Wrong(format!("schema registry {self}: {why}")))
                    }
                }
            }
            Err(no) if no.is_unknown() => Ok(None),
            Err(no) => Err(self.wrong(&what, &no)),
        }
    }

    /// Registers a schema under a subject, unless it is there; answers its number.
    ///
    /// # Errors
    /// As of `by_id`; why the schema is refused, and what to do.
    pub async fn register(&self, subject: &str, schema: &Registered) -> Result<u32, CodecError> {
        let what = format!("registering a schema under subject `{subject}`");
        let path = ["subjects", subject, "versions"];
        let question = question(schema)?;
        let answer: Result<IdAnswer, No> = self.ask(&what, Method::POST, &path, "", Some(&question)).await?;
        match answer {
            Ok(answer) => Ok(answer.id),
            Err(no) if no.status == StatusCode::CONFLICT => {
                Err(self.incompatible(subject, &question, &no).await)
            }
            Err(no) if no.status == StatusCode::UNPROCESSABLE_ENTITY => Err(CodecError::Wrong(format!(
                "schema registry {self}: it takes the schema under subject `{subject}` for no valid {} schema, saying: {}; correct the schema",
                schema.kind.name(),
                no.said
            ))),
            Err(no) => Err(self.wrong(&what, &no)),
        }
    }

    /// The number of a schema that is registered under a subject; none where it isn't.
    ///
    /// # Errors
    /// As of `by_id`.
    pub async fn id_of(&self, subject: &str, schema: &Registered) -> Result<Option<u32>, CodecError> {
        let what = format!("looking up a schema under subject `{subject}`");
        let question = question(schema)?;
        let answer: Result<IdAnswer, No> =
            self.ask(&what, Method::POST, &["subjects", subject], "", Some(&question)).await?;
        match answer {
            Ok(answer) => Ok(Some(answer.id)),
            Err(no) if no.is_unknown() => Ok(None),
            Err(no) => Err(self.wrong(&what, &no)),
        }
    }

    /// The subject of what is called `name`.
    #[must_use]
    pub fn subject(&self, name: &str) -> String {
        self.0.subject.clone().unwrap_or_else(|| format!("{name}-value"))
    }

    /// The schema, with its number, by which what is called `name` is written: that of `file`, registered or looked
    /// up as the settings say; without one the subject's latest.
    ///
    /// # Errors
    /// As of `register`; that there is none, or one of another kind.
    pub async fn for_writing(
        &self,
        name: &str,
        kind: SchemaKind,
        file: Option<&Registered>,
    ) -> Result<(u32, Registered), CodecError> {
        let subject = self.subject(name);
        let Some(file) = file else {
            let (id, latest) = self.latest(&subject).await?.ok_or_else(|| {
                CodecError::Wrong(format!(
                    "schema registry {self}: it has no subject `{subject}`: register a schema under it, set `subject` to where one is, or set `schema_file`"
                ))
            })?;
            if latest.kind != kind {
                return Err(CodecError::Wrong(format!(
                    "schema registry {self}: the latest schema of subject `{subject}` is of the type {}, not {}: set `subject` to where one is, or choose the codec for it",
                    latest.kind.name(),
                    kind.name()
                )));
            }
            return Ok((id, latest));
        };
        let id = if self.0.register {
            self.register(&subject, file).await?
        } else {
            self.id_of(&subject, file).await?.ok_or_else(|| {
                CodecError::Wrong(format!(
                    "schema registry {self}: subject `{subject}` doesn't have the schema of `schema_file`: register it, or set `register: true`"
                ))
            })?
        };
        Ok((id, file.clone()))
    }

    /// With its references.
    async fn whole(&self, what: &str, answer: SchemaAnswer) -> Result<Registered, Trouble> {
        let kind = match answer.kind.as_deref() {
            None | Some("AVRO") => SchemaKind::Avro,
            Some("JSON") => SchemaKind::Json,
            Some("PROTOBUF") => SchemaKind::Protobuf,
            Some(other) => {
                return Err(Trouble::Broken(format!(
                    "{what} is of the type {other}: expected AVRO, JSON or PROTOBUF"
                )));
            }
        };
        let references = self.references(what, answer.references.unwrap_or_default()).await?;
        Ok(Registered { kind, text: answer.schema, references })
    }

    async fn references(&self, what: &str, direct: Vec<ReferenceJson>) -> Result<Vec<Reference>, Trouble> {
        let broken = |why: String| Trouble::Broken(format!("{what}: {why}"));
        let mut done: Vec<Reference> = Vec::new();
        // Of a name that stands for two schemas the first counts, as with Confluent's own clients.
        let mut names = HashSet::new();
        let mut text_bytes = 0;
        let mut open = vec![(None, direct.into_iter())];
        while let Some((_, rest)) = open.last_mut() {
            let Some(next) = rest.next() else {
                done.extend(open.pop().and_then(|(of, _)| of));
                continue;
            };
            let direct = open.len() == 1;
            if !names.insert(next.name.clone()) {
                if let Some(known) = done.iter_mut().find(|r| direct && r.name == next.name) {
                    known.direct = true;
                }
                continue;
            }
            if names.len() > REFERENCES_MAX {
                return Err(broken(format!("it refers to more than {REFERENCES_MAX} schemas")));
            }
            if open.len() > REFERENCE_DEPTH_MAX {
                return Err(broken(format!("its references are more than {REFERENCE_DEPTH_MAX} deep")));
            }
            let ReferenceJson { name, subject, version } = next;
            let asked = format!("reading version {version} of subject `{subject}`");
            let number = version.to_string();
            let path = ["subjects", &*subject, "versions", &*number];
            // A deleted version may still be referred to.
            let answer: Result<SchemaAnswer, No> =
                self.ask(&asked, Method::GET, &path, "deleted=true", None).await?;
            let answer = match answer {
                Ok(answer) => answer,
                Err(no) if no.is_unknown() => {
                    return Err(broken(format!(
                        "it refers to `{name}`, version {version} of subject `{subject}`, which the registry doesn't have"
                    )));
                }
                Err(no) => return Err(self.wrong(&asked, &no).into()),
            };
            text_bytes += answer.schema.len();
            if text_bytes > REFERENCES_BYTES_MAX {
                return Err(broken(format!(
                    "it refers to more than {REFERENCES_BYTES_MAX} bytes of schemas"
                )));
            }
            let of = Reference { name, subject, version, text: answer.schema, direct };
            open.push((Some(of), answer.references.unwrap_or_default().into_iter()));
        }
        Ok(done)
    }

    /// Asks the registry why it won't take a schema, for its refusal alone often doesn't say.
    async fn incompatible(&self, subject: &str, question: &[u8], no: &No) -> CodecError {
        let mut text = format!(
            "schema registry {self}: the schema is incompatible with what subject `{subject}` has, saying: {}",
            no.said
        );
        let what = "checking a schema's compatibility";
        for versions in [&["latest"][..], &[]] {
            let mut path = vec!["compatibility", "subjects", subject, "versions"];
            path.extend(versions);
            let asked: Result<Result<CompatibleAnswer, No>, CodecError> =
                self.ask(what, Method::POST, &path, "verbose=true", Some(question)).await;
            let Ok(Ok(answer)) = asked else { break };
            if answer.is_compatible {
                // So it is an older version that it is incompatible with.
                continue;
            }
            let version = match versions {
                [] => None,
                _ => {
                    let path = ["subjects", subject, "versions", "latest"];
                    let latest: Result<Result<SchemaAnswer, No>, CodecError> =
                        self.ask(what, Method::GET, &path, "", None).await;
                    latest.ok().and_then(Result::ok).map(|latest| latest.version)
                }
            };
            match version {
                Some(version) => {
                    let _ = write!(text, "; compared with version {version}, the latest");
                }
                None => text.push_str("; compared with all versions"),
            }
            for (at, reason) in answer.messages.iter().take(REASONS_MAX).enumerate() {
                let reason = &reason.as_bytes()[..reason.len().min(SHOWN_BYTES)];
                let _ = write!(text, "{} {}", if at == 0 { ":" } else { ";" }, on_one_line(reason));
            }
            if answer.messages.len() > REASONS_MAX {
                let _ = write!(text, "; and {} more", answer.messages.len() - REASONS_MAX);
            }
            break;
        }
        text.push_str("; change the schema so that it is compatible, set another `subject`, or have the subject's compatibility changed in the registry");
        CodecError::Wrong(text)
    }

    /// Asks the URLs one after the other, beginning with the one that answered last.
    async fn ask<T: DeserializeOwned>(
        &self,
        what: &str,
        method: Method,
        path: &[&str],
        query: &str,
        body: Option<&[u8]>,
    ) -> Result<Result<T, No>, CodecError> {
        let count = self.0.urls.len();
        let first = self.0.first.load(Ordering::Relaxed);
        let mut causes = String::new();
        for at in (0..count).map(|n| (first + n) % count) {
            let base = &self.0.urls[at];
            let answer = match self.attempt(base, &method, path, query, body).await {
                Attempt::Answer(answer) => answer,
                Attempt::No(no) => {
                    self.0.first.store(at, Ordering::Relaxed);
                    return Ok(Err(no));
                }
                Attempt::Away(cause) => {
                    if !causes.is_empty() {
                        causes.push_str("; ");
                    }
                    if count > 1 {
                        let _ = write!(causes, "{}: ", base.shown);
                    }
                    causes.push_str(&cause);
                    continue;
                }
                Attempt::Wrong(why) => {
                    return Err(CodecError::Wrong(format!("schema registry {}: {what}: {why}", base.shown)));
                }
            };
            self.0.first.store(at, Ordering::Relaxed);
            return serde_json::from_slice(&answer).map(Ok).map_err(|e| {
                CodecError::Wrong(format!(
                    "schema registry {}: {what}: the answer is none of a schema registry's ({e}): set `url` to where its API is",
                    base.shown
                ))
            });
        }
        Err(CodecError::Away { what: format!("schema registry {self}: {what}"), cause: causes })
    }

    async fn attempt(
        &self,
        base: &Base,
        method: &Method,
        path: &[&str],
        query: &str,
        body: Option<&[u8]>,
    ) -> Attempt {
        let mut url = base.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.set_query(Some(query));
        }
        let mut request = self
            .0
            .client
            .request(method.clone(), url)
            .header(reqwest::header::ACCEPT, "application/vnd.schemaregistry.v1+json, application/json");
        if let Some(body) = body {
            request =
                request.header(CONTENT_TYPE, "application/vnd.schemaregistry.v1+json").body(body.to_vec());
        }
        request = match &self.0.auth {
            Auth::None => request,
            Auth::User(user, password) => request.basic_auth(user, password.as_ref()),
            Auth::Token(token) => request.bearer_auth(token),
        };
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(e) => return failed(&e),
        };
        let status = response.status();
        if status.is_success() {
            let mut answer = Vec::new();
            loop {
                match response.chunk().await {
                    Ok(Some(piece)) if answer.len() + piece.len() > ANSWER_BYTES_MAX => {
                        return Attempt::Wrong(format!("the answer has more than {ANSWER_BYTES_MAX} bytes"));
                    }
                    Ok(Some(piece)) => answer.extend_from_slice(&piece),
                    Ok(None) => return Attempt::Answer(answer),
                    Err(e) => return Attempt::Away(format!("the answer is cut off: {}", cause(&e))),
                }
            }
        }
        let location =
            response.headers().get(LOCATION).map(|l| String::from_utf8_lossy(l.as_bytes()).into_owned());
        let body = beginning(&mut response, SHOWN_BYTES).await;
        let json = serde_json::from_slice::<NoJson>(&body).ok();
        let code = json.as_ref().map_or(0, |json| json.error_code);
        let said = match json.and_then(|json| json.message) {
            Some(message) => on_one_line(message.as_bytes()),
            None => on_one_line(&body),
        };
        let saying = if said.is_empty() { String::new() } else { format!(", saying: {said}") };
        if status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429) {
            return Attempt::Away(format!("it answered {status}{saying}"));
        }
        if status.is_redirection() {
            // What is behind the path may be a secret, and is not needed to know the place.
            let to = location.map_or_else(String::new, |to| {
                format!(" to {}", to.split(['?', '#']).next().unwrap_or_default())
            });
            return Attempt::Wrong(format!(
                "it answered {status}{to}: set `url` to where the registry is; redirects are not followed"
            ));
        }
        let todo = match status {
            StatusCode::UNAUTHORIZED => "set the right `user` and `password`, or `token`",
            StatusCode::FORBIDDEN => "the user, token or certificate must be allowed to do that",
            StatusCode::NOT_FOUND if code == 0 || code == 404 => {
                "nothing of a schema registry is there: set `url` to where its API is, of Apicurio with the path /apis/ccompat/v7"
            }
            StatusCode::METHOD_NOT_ALLOWED => "set `url` to where a schema registry's API is",
            status if status.is_client_error() => return Attempt::No(No { status, code, said }),
            _ => "that is no answer of a schema registry: is `url` right?",
        };
        Attempt::Wrong(format!("it answered {status}{saying}: {todo}"))
    }

    fn wrong(&self, what: &str, no: &No) -> CodecError {
        CodecError::Wrong(format!(
            "schema registry {self}: {what}: it answered {}, saying: {}",
            no.status, no.said
        ))
    }
}

fn question(schema: &Registered) -> Result<Vec<u8>, CodecError> {
    serde_json::to_vec(&SchemaQuestion::of(schema))
        .map_err(|e| CodecError::Wrong(format!("the schema can't be sent to a registry: {e}")))
}

fn failed(error: &reqwest::Error) -> Attempt {
    let cause = cause(error);
    if cause.contains("certificate verify failed") {
        return Attempt::Wrong(format!("{cause}; {NOT_TRUSTED}"));
    }
    if cause.contains("alert") && (cause.contains("certificate") || cause.contains("handshake")) {
        return Attempt::Wrong(format!(
            "{cause}; it refuses the connection: set `cert_file` and `key_file` to a certificate that it trusts"
        ));
    }
    if cause.contains("wrong version number") {
        return Attempt::Wrong(format!(
            "{cause}; it speaks no TLS there: set `url` to http://, or another port"
        ));
    }
    if error.is_builder() {
        return Attempt::Wrong(format!("the request can't be made: {cause}"));
    }
    Attempt::Away(cause)
}

/// Where a registry is, and the user that its URL names.
fn base(text: &str) -> Result<(Base, Option<User>), String> {
    let expected = "expected one such as http://registry:8081";
    let mut url = Url::parse(text).map_err(|e| format!("`url` is no URL ({e}): {expected}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("`url` begins with {}:// : {expected}, or https://", url.scheme()));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("`url` has `?` or `#` in it: {expected}"));
    }
    let decoded =
        |text: &str| percent(text).ok_or_else(|| "`url`: its user or password is no UTF-8 text".to_owned());
    let user = match (url.username(), url.password()) {
        ("", None) => None,
        (user, password) => Some((decoded(user)?, password.map(decoded).transpose()?)),
    };
    // A URL that begins with http has a host and can do without a user.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    let host = url.host_str().ok_or_else(|| format!("`url` has no host: {expected}"))?;
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    let shown = format!("{}://{host}{port}{}", url.scheme(), url.path().trim_end_matches('/'));
    Ok((Base { url, shown }, user))
}

/// Without percent-encoding.
fn percent(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digit = |at: usize| tail.get(at).and_then(|d| char::from(*d).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).ok()?);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).ok()
}
