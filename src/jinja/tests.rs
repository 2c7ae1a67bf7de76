//! Templates that would take minutes, gigabytes or the whole stack, and ordinary ones against minijinja without checks.
#![allow(clippy::unwrap_used)]

use minijinja::context;
use minijinja::value::Serde;
use serde_json::json;

use super::*;

fn sandbox() -> Sandbox {
    Sandbox::new(SyntaxConfig::default())
}

fn data() -> Value {
    Value::from(Serde(json!({
        "a": 1, "text": "A text, with words. ", "list": [3, 1, 2], "map": { "x": 1, "y": [1, { "z": null }] },
        "people": [{ "name": "Ann", "age": 3 }, { "name": "Ben", "age": 4 }, { "name": "Cem", "age": 3 }],
    })))
}

/// Expects one of these limits: which comes first may depend on the prices of minijinja.
fn check_stopped(template: &str, expected: &[Limit]) {
    let start = &template[..template.len().min(120)];
    match sandbox().render(template, data()) {
        Err(Failure::Limit(limit)) => assert!(expected.contains(&limit), "{start}: {limit}"),
        other => panic!("{start}: {:?}", other.map(|text| text.len())),
    }
}

/// Repeats an assignment to `ns.x`, then uses it.
fn grown(first: &str, step: &str, usage: &str) -> String {
    format!(
        "{{% set ns = namespace(x={first}) %}}{{% for i in range(100000) %}}{{% set ns.x = {step} %}}{{% endfor %}}{usage}"
    )
}

#[test]
fn values_that_nest_are_stopped() {
    for step in ["[ns.x]", "{'a': ns.x}", "(ns.x, 1)", "[1] + [ns.x]", "dict(a=ns.x)", "[ns.x]|list"] {
        check_stopped(&grown("[]", step, "{{ ns.x }}"), &[Limit::Depth]);
    }
    let macros = "{% macro m(x) %}{{ m([x]) }}{% endmacro %}{{ m([]) }}";
    assert!(sandbox().render(macros, data()).is_err());
}

#[test]
fn values_that_double_are_stopped() {
    for step in ["[ns.x, ns.x]", "ns.x + ns.x", "{'a': ns.x, 'b': ns.x}", "ns.x * 2", "[ns.x|list, ns.x]"] {
        check_stopped(&grown("[0]", step, "{{ ns.x }}"), &[Limit::Parts, Limit::Depth, Limit::Fuel]);
    }
    for step in
        ["ns.x ~ ns.x", "ns.x + ns.x", "ns.x * 2", "ns.x|replace('a', 'aa')", "'%s%s'|format(ns.x, ns.x)"]
    {
        check_stopped(&grown("'aaaa'", step, "{{ ns.x }}"), &[Limit::Text, Limit::Fuel]);
    }
    let by_macro = "{% macro m(x, n) %}{{ m([x, x], n - 1) if n else x ~ '' }}{% endmacro %}{{ m([0], 60) }}";
    check_stopped(by_macro, &[Limit::Parts]);
    let compared = grown("people", "[ns.x, ns.x]", "{{ ns.x == ns.x }}");
    check_stopped(&compared, &[Limit::Parts]);
}

#[test]
fn values_that_contain_themselves_are_refused() {
    for step in ["[ns]", "ns", "{'a': ns}"] {
        check_stopped(&grown("1", step, "{{ ns }}"), &[Limit::Lazy]);
    }
    check_stopped("{{ [namespace(a=1)] }}", &[Limit::Lazy]);
}

#[test]
fn large_formats_are_refused() {
    check_stopped("{{ '{:>4000000000}'.format('x') }}", &[Limit::Width]);
    check_stopped("{{ '{:3000}{:3000}'.format(1, 2) }}", &[Limit::Width]);
    check_stopped("{{ '{:.99999999999999999999}'.format(1.5) }}", &[Limit::Width]);
    check_stopped("{{ '%4000000000d'|format(1) }}", &[Limit::Fuel]);
    assert_eq!(sandbox().render("{{ '{:>5}|{:<3}|'.format('x', 1) }}", data()).unwrap(), "    x|1  |");
}

#[test]
fn work_that_repeats_is_stopped() {
    let loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    check_stopped(loops, &[Limit::Fuel]);
    check_stopped("{{ ('a,' * 30000000).split(',')|length }}", &[Limit::Fuel, Limit::Text]);
    check_stopped("{{ ('a' * 1000000).strip('b' * 1000000) }}", &[Limit::Fuel]);
    check_stopped("{{ ('a' * 1000000)|trim('b' * 1000000) }}", &[Limit::Fuel]);
    check_stopped(
        "{% for i in range(99999) %}{% set x = ('a' * 1000000) == ('a' * 1000000) %}{% endfor %}",
        &[Limit::Fuel],
    );
    let shared = "{% set ns = namespace(x=[0]) %}{% for i in range(15) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}\
        {% for i in range(99999) %}{% if ns.x != ns.x %}{% endif %}{% endfor %}";
    check_stopped(shared, &[Limit::Fuel]);
}

#[test]
fn sources_that_overflow_the_compiler_are_refused() {
    check_stopped(&"x".repeat(Limit::SOURCE + 1), &[Limit::Source]);
    check_stopped(&format!("{{{{ a{} }}}}", "+a".repeat(Limit::WORDS)), &[Limit::Expression]);
    check_stopped(&format!("{{{{ a{} }}}}", "|abs".repeat(Limit::WORDS)), &[Limit::Expression]);
    let branches =
        format!("{{% if a == 2 %}}{}{{% endif %}}", "{% elif a == 3 %}".repeat(Limit::BRANCHES + 1));
    check_stopped(&branches, &[Limit::Branches]);
    check_stopped("{% include 'x' %}", &[Limit::Feature]);
    check_stopped("{{ range(*list) }}", &[Limit::Feature]);
}

/// The stack holds what the limits let through.
#[test]
fn sources_at_the_limits_compile() {
    let count = Limit::WORDS / 2 - 2;
    let sum = format!("{{{{ a{} }}}}", "+a".repeat(count));
    assert_eq!(sandbox().render(&sum, data()).unwrap(), (count + 1).to_string());
    let filters = format!("{{{{ a{} }}}}", "|abs".repeat(count));
    assert_eq!(sandbox().render(&filters, data()).unwrap(), "1");
    let branches = format!(
        "{{% if a == 2 %}}{}{{% else %}}end{{% endif %}}",
        "{% elif a == 3 %}".repeat(Limit::BRANCHES)
    );
    assert_eq!(sandbox().render(&branches, data()).unwrap(), "end");
}

#[test]
fn deep_results_of_expressions_are_refused() {
    let found = sandbox().evaluate("[list, map.y, a + 1]", data()).unwrap();
    assert_eq!(found, json!([[3, 1, 2], [1, { "z": null }], 2]));
    let wide = sandbox().evaluate("['a' * 1000000] * 1000", data()).unwrap_err();
    assert!(matches!(wide, Failure::Limit(Limit::Text | Limit::Fuel)), "{wide}");
    assert!(matches!(sandbox().evaluate("nothing", data()), Err(Failure::Template(_))));
}

/// The checks do not change a text: each feature that real templates use, rendered with and without them.
#[test]
fn checks_change_nothing() {
    let templates = [
        "{% for p in people %}{{ loop.index }}{{ p.name }}{{ ', ' if not loop.last }}{% else %}none{% endfor %}",
        "{% for p in people if p.age == 3 %}{{ p['name'] }}{{ loop.previtem.name if loop.previtem }}{% endfor %}",
        "{% for p in people %}{% if p.age == 4 %}{% continue %}{% endif %}{{ p.name }}{% if loop.index == 3 %}{% break %}{% endif %}{% endfor %}",
        "{% for p in people[1:] %}{{ p.name }}{% endfor %}{{ people[::-1][0].name }}{{ people[:2]|length }}{{ text[2:6] }}",
        "{% set ns = namespace(n=0, l=[]) %}{% for x in list %}{% set ns.n = ns.n + x %}{% set ns.l = ns.l + [x] %}{% endfor %}{{ ns.n }}{{ ns.l }}",
        "{% macro m(a, b='B') %}<{{ a }}{{ b }}{{ caller() if caller }}>{% endmacro %}{{ m(1) }}{{ m(1, b=2) }}{% call m(3) %}c{% endcall %}",
        "{% macro walk(v, d) %}{{ d }}{% if v is mapping %}{% for k, w in v|items %}{{ k }}{{ walk(w, d + 1) }}{% endfor %}{% else %}{{ v }}{% endif %}{% endmacro %}{{ walk(map, 0) }}",
        "{% for x in [[1, [2, [3]]]] recursive %}{% if x is iterable %}[{{ loop(x) }}]{% else %}{{ x }}{% endif %}{% endfor %}",
        "{% set b %}block {{ a }}{% endset %}{{ b|upper }}{% filter lower %}ABC {{ text }}{% endfilter %}{% with q = a %}{{ q }}{% endwith %}",
        "{{ text.split(' ') }}{{ text.strip()|trim('A') }}{{ text.upper().replace('A', 'b') }}{{ text.startswith('A') }}",
        "{{ map.items()|list }}{{ map.keys()|join(',') }}{% for k, v in map.items() %}{{ k }}={{ v }};{% endfor %}{{ map.get('q', 'none') }}",
        "{{ people|map(attribute='name')|join(' ') }}{{ people|selectattr('age', 'equalto', 3)|list|length }}{{ list|sort }}{{ list|map('string')|list }}",
        "{{ people|groupby('age') }}{{ list|batch(2)|list }}{{ list|reverse|list }}{{ list|first }}{{ list|last }}{{ list|sum }}{{ map|dictsort }}",
        "{{ 1 in list }}{{ 'x' in map }}{{ 'z' not in text }}{{ a == 1 and not a > 2 or false }}{{ 1 < 2 < 3 }}{{ a if a else 0 }}{{ nothing is defined }}{{ nothing|default('d') }}",
        "{{ 'a' ~ 1 ~ list }}{{ 2 ** 3 - 7 // 2 % 3 }}{{ -a }}{{ [1, 'b', none, true] }}{{ {'k': [1], 2: (1, 2)} }}{{ '%s-%03d'|format('x', 7) }}",
        "{{ range(3)|list }}{{ range(4) }}{% for i in range(2, 8, 3) %}{{ i }}{% endfor %}{{ dict(a=1) }}{{ namespace(b=2) }}",
        "{% block part %}in {{ a }}{% endblock %}{% set x, y = 1, 2 %}{{ x }}{{ y }}{{ list is sequence }}{{ people[1:] is sequence }}",
    ];
    for template in templates {
        let mut plain = Environment::new();
        plain.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        let expected = plain.render_str(template, data()).unwrap();
        if template.contains("is sequence") {
            // A slice is a list, as in Python; minijinja's own is none.
            assert_eq!(sandbox().render(template, data()).unwrap(), "in 112TrueTrue");
            continue;
        }
        assert_eq!(sandbox().render(template, data()).unwrap(), expected, "{template}");
    }
}

#[test]
fn errors_keep_their_text() {
    let error = sandbox().render("a\n{{ a.b.c }}", data()).unwrap_err();
    assert!(error.to_string().contains("undefined value"), "{error}");
    let error = sandbox().check("{% for %}").unwrap_err();
    assert!(matches!(error, Failure::Template(ref e) if e.kind() == ErrorKind::SyntaxError), "{error}");
    let error = sandbox().render("{{ a|pprint }}", data()).unwrap_err();
    assert!(error.to_string().contains("pprint is unknown"), "{error}");
}

/// A large context raises the fuel, and loading its lists again is cheap.
#[test]
fn large_contexts_may_take_more_steps() {
    let items: Vec<_> =
        (0..5000).map(|i| json!({ "role": "user", "content": format!("message {i}") })).collect();
    let template = "{% for m in items %}{{ m.role }}{{ items|length }}{% if items[loop.index0 - 1].role == m.role %}\
        {{ m.content|trim }}{% endif %}{% endfor %}";
    let text = sandbox().render(template, context! { items => Value::from(Serde(&items)) }).unwrap();
    assert!(text.ends_with("user5000message 4999"), "{}", &text[text.len() - 40..]);
}
