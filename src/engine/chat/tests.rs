//! Templates against their rendering in transformers (`fixtures/chat`), and the places that they are read from.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::*;
use crate::io::SideFile;
use crate::test_support::{self, fixture};

fn template(text: &str) -> ChatTemplate {
    let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")];
    let tokens = tokens.map(|(name, text)| (name, text.to_owned()));
    ChatTemplate::parse("chat.jinja".into(), text, tokens.into()).unwrap()
}

fn messages(json: &Json) -> Vec<Message> {
    let text = |message: &Json, key: &str| message[key].as_str().unwrap().to_owned();
    json.as_array().unwrap().iter().map(|m| Message::new(text(m, "role"), text(m, "content"))).collect()
}

fn checkpoint(files: &[(&str, &str)]) -> Checkpoint {
    let side = |(name, text): &(&str, &str)| SideFile {
        name: (*name).to_owned(),
        bytes: Some(text.as_bytes().to_vec()),
        path: PathBuf::from(name),
    };
    let mut checkpoint = test_support::checkpoint("tiny-llama");
    checkpoint.side_files = files.iter().map(side).collect();
    checkpoint
}

fn opened(files: &[(&str, &str)]) -> Result<String> {
    ChatTemplate::open(&checkpoint(files))?.render(&[Message::new("user", "hi")], true)
}

#[test]
fn renderings_are_those_of_transformers() {
    let goldens = std::fs::read(fixture("chat/goldens.json")).unwrap();
    let goldens: Vec<Json> = serde_json::from_slice(&goldens).unwrap();
    assert!(goldens.len() >= 80, "{} goldens", goldens.len());
    for golden in &goldens {
        let name = golden["template"].as_str().unwrap();
        let text = std::fs::read_to_string(fixture(&format!("chat/{name}.jinja"))).unwrap();
        let prompt = golden["add_generation_prompt"].as_bool().unwrap();
        let rendered = template(&text).render(&messages(&golden["messages"]), prompt);
        match (&golden["text"], &golden["error"], rendered) {
            (Json::String(expected), _, Ok(found)) => assert_eq!(found, *expected, "{name}: {golden}"),
            (_, Json::String(expected), Err(error)) => {
                assert!(error.to_string().contains(expected), "{error}")
            }
            (_, _, rendered) => panic!("{name}: {golden}: {rendered:?}"),
        }
    }
}

#[test]
fn templates_are_found_in_order() {
    let config = |template: Json| json!({ "chat_template": template, "bos_token": "[B]" }).to_string();
    let simple = config(json!("{{ bos_token }}config"));
    let list = config(json!([
        { "name": "tool_use", "template": "tools" },
        { "name": "default", "template": "{{ bos_token }}default" },
    ]));
    let older = json!({ "chat_template": "older" }).to_string();
    assert_eq!(opened(&[("tokenizer_config.json", &simple)]).unwrap(), "[B]config");
    assert_eq!(opened(&[("tokenizer_config.json", &list)]).unwrap(), "[B]default");
    assert_eq!(opened(&[("chat_template.json", &older)]).unwrap(), "older");
    let both = [("tokenizer_config.json", simple.as_str()), ("chat_template.jinja", "{{ bos_token }}file\n")];
    assert_eq!(opened(&both).unwrap(), "[B]file");
}

#[test]
fn special_tokens_may_be_objects_or_in_the_older_file() {
    let config = r#"{"chat_template": "{{ bos_token }}{{ eos_token }}{{ pad_token }}", "bos_token": {"content": "<b>"}}"#;
    let map = r#"{"eos_token": "<e>", "bos_token": "other"}"#;
    assert_eq!(
        opened(&[("tokenizer_config.json", config), ("special_tokens_map.json", map)]).unwrap(),
        "<b><e>"
    );
}

#[test]
fn rendering_errors_give_the_reason() {
    let none = opened(&[("tokenizer_config.json", "{}")]).unwrap_err();
    assert!(
        none.to_string().contains("no chat template") && none.hint().unwrap().contains("--chat"),
        "{none}"
    );
    let broken = opened(&[("chat_template.jinja", "{% for %}")]).unwrap_err();
    assert!(broken.to_string().contains("expected a Jinja template"), "{broken}");
    let json = opened(&[("tokenizer_config.json", "{")]).unwrap_err();
    assert!(json.to_string().contains("tokenizer_config.json: expected JSON"), "{json}");
    let refused = template("{{ raise_exception('no') }}").render(&[], false).unwrap_err();
    assert!(refused.to_string().ends_with("refuses this conversation: no"), "{refused}");
    let undated = template("{{ strftime_now('%Q') }}").render(&[], false).unwrap_err();
    assert!(undated.to_string().contains("is not a date pattern"), "{undated}");
}

#[test]
fn templates_beyond_a_limit_are_stopped() {
    let check = |text: &str, reason: &str| {
        let error = template(text).render(&[Message::new("user", "hi")], false).unwrap_err();
        let expected = format!("chat.jinja: the chat template cannot be rendered: it {reason}");
        assert!(error.to_string().starts_with(&expected), "{text}: {error}");
        assert!(error.hint().unwrap().contains("--chat"), "{error}");
    };
    check(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "takes too many steps",
    );
    check(
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
        "nests values more than 100 deep",
    );
    check("{{ messages|tojson(indent=70000) }}", "formats with a width of more than 4096");
    check(
        "{{ [messages]|tojson(indent=4000, separators=(',' * 99999, ':')) }}{% for i in range(9) %}        {{ (messages * 40000)|tojson(indent=4000) }}{% endfor %}",
        "makes a text of more than 64 MB",
    );
    check("{{ strftime_now('%A' * 9999) }}", "formats with a width of more than 4096");
    let indented =
        template("{{ messages|tojson(indent=4096) }}").render(&[Message::new("user", "hi")], false);
    assert!(indented.unwrap().contains(&format!("\n{}\"role\": \"user\"", " ".repeat(8192))));
}

/// 1 MB in a thousand turns, through the templates of real models.
#[test]
fn long_conversations_render() {
    let mut rendered = 0;
    for name in ["gemma", "llama3", "mistral", "qwen", "zephyr"] {
        let text = std::fs::read_to_string(fixture(&format!("chat/{name}.jinja"))).unwrap();
        let roles = ["user", "assistant"].into_iter().cycle();
        let turns = roles
            .zip(0..1000)
            .map(|(role, turn)| Message::new(role, format!("{turn} ") + &"word ".repeat(200)));
        let text = template(&text).render(&turns.collect::<Vec<_>>(), true).unwrap();
        assert!(text.len() > 1_000_000 && text.contains("999 word"), "{name}: {}", text.len());
        rendered += 1;
    }
    assert_eq!(rendered, 5);
}

#[test]
fn dates_are_todays() {
    let now = || chrono::Local::now().format("%d %b %Y").to_string();
    let (before, date) = (now(), template("{{ strftime_now('%d %b %Y') }}").render(&[], false).unwrap());
    assert!([before, now()].contains(&date), "{date}");
}

#[test]
fn only_generation_tags_are_rewritten() {
    let check = |text: &str, expected: &str| assert_eq!(without_generation_tags(text), expected);
    check("{%- generation -%}x{% endgeneration %}", "{%- if true -%}x{% endif %}");
    check(
        "{% if add_generation_prompt %}generation{% endif %}",
        "{% if add_generation_prompt %}generation{% endif %}",
    );
    check("{{ generation }} {% unclosed generation", "{{ generation }} {% unclosed generation");
}

#[test]
fn turn_ends_are_those_of_the_template() {
    let tokenizer = test_support::tokenizer("tiny-llama");
    assert_eq!(template("{{ '<|im_end|>' }}{{ '<|eot_id|>' }}").ends(&tokenizer), [2]);
    assert_eq!(template("{{ messages }}").ends(&tokenizer), Vec::<u32>::new());
}
