//! Asks for what is granted beyond messages: a table by a bulk call, a secret, and HTTP for all messages of a batch
//! side by side.
//!
//! A message's payload is `{"carrier", "path"}`. It learns the carrier's `name` from the table `carriers`, and asks
//! the server that the config `server` names for the path, with the secret `api-key`. By its type it then acts:
//! `tell` fails with the secret in its reason, `panic` panics with it, `log` logs it, `other` asks for a secret of
//! another name.

use wasmill_sdk::prelude::*;
use wasmill_sdk::{http, lookup, secret};

#[derive(Deserialize)]
struct Asked {
    carrier: String,
    path: String,
}

#[derive(Deserialize)]
struct Carrier {
    name: String,
}

fn process(batch: &mut Batch) -> Result<()> {
    let key = secret::text("api-key")?;
    let server: String = host::config("server")?.unwrap_or_default();
    let asked = batch.read(|message| message.json::<Asked>()).into_iter().collect::<Result<Vec<_>>>()?;
    let names = lookup::get_all::<Carrier, _>("carriers", asked.iter().map(|a| &a.carrier))?;
    let request = |a: &Asked| {
        http::Request::get(format!("{server}{}", a.path)).header("authorization", format!("Bearer {key}"))
    };
    let answers = http::send_all(asked.iter().map(request));
    batch.each(names.into_iter().zip(answers), |message, (carrier, answer)| {
        match message.kind() {
            "tell" => fail!("the key {key} is not for you"),
            "panic" => panic!("no {key} here"),
            "log" => log_info!("my key is {key}"),
            "other" => drop(secret::get("other-key")?),
            _ => {}
        }
        if let Some(carrier) = carrier {
            message.set_metadata("name", carrier.name);
        }
        message.set_metadata("answer", answer?.ok()?.text()?);
        Ok(Keep)
    })
}
transform_batch!(process);

#[cfg(test)]
mod tests {
    use super::*;
    use wasmill_sdk::testing::{Host, message, transform_batch};

    fn host() -> Host {
        Host::new()
            .config("server", "https://api.example.com")
            .secret("api-key", "hunter2")
            .lookup("carriers", "UA", json!({ "name": "United" }))
            .http(|request| match request.url.strip_prefix("https://api.example.com/") {
                Some("down") => Err("no answer within 2s".to_owned()),
                Some(path) => {
                    let key = request.headers.iter().find(|(name, _)| name == "authorization");
                    assert_eq!(key.map(|(_, value)| value.as_str()), Some("Bearer hunter2"));
                    Ok(http::Response::new(200, path))
                }
                None => panic!("asks {}", request.url),
            })
    }

    #[test]
    fn each_message_learns_its_own() {
        let _host = host();
        let batch = [("UA", "/a"), ("XX", "/b"), ("UA", "/down")]
            .map(|(carrier, path)| message("flight").json(json!({ "carrier": carrier, "path": path })));
        let outcomes = transform_batch(process, &batch);
        assert_eq!(outcomes[0].kept().text("name"), Some("United"));
        assert_eq!(outcomes[0].kept().text("answer"), Some("a"));
        assert_eq!((outcomes[1].kept().text("name"), outcomes[1].kept().text("answer")), (None, Some("b")));
        assert_eq!(outcomes[2].failed(), "http: no answer within 2s");
    }

    #[test]
    fn a_secret_that_is_not_granted_is_an_error() {
        let _host = host();
        let other = message("other").json(json!({ "carrier": "UA", "path": "/a" }));
        let outcomes = transform_batch(process, &[other]);
        assert!(outcomes[0].failed().starts_with("the secret \"other-key\" is not granted"));
    }
}
