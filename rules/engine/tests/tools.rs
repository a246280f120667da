//! What people are told about rules and facts: explanations, differences between versions, pictures.

use std::sync::Arc;

use celesta_engine::{
    Environment, Event, RuleSet, RunId, Source, Turn, WorkingMemory, compile, diff, read_facts,
};

const RULES: &str = r#"
workflow shop;
fact Order { id: string, total: int, state: string = "new" }
fact Stock { order: string, left: int }

rule "reserve" {
    match  { order: Order where order.state == "new" && order.total > 10; stock: Stock where stock.order == order.id; }
    action { stock.left -= 1; order.state = "reserved"; }
}
rule "ship" {
    match  { order: Order where order.state == "reserved"; no Stock s where s.order == order.id && s.left < 0; }
    action { order.state = "shipped"; insert("Order", #{ id: `${order.id}-copy`, total: 0, state: "archived" }); }
}
rule "sum" salience -5 {
    match  { n = count Order o where o.state == "shipped"; if n > 1; }
    action { complete(#{ n: n }); }
}
"#;

fn rules(text: &str) -> Arc<RuleSet> {
    let source = Source {
        path: "shop.rules".into(),
        text: text.into(),
    };
    match compile(&source, &Environment::default()) {
        Ok(compiled) => compiled.rules,
        Err(found) => panic!("{found}"),
    }
}

fn memory(facts: &str) -> WorkingMemory {
    let rules = rules(RULES);
    let events: Vec<Event> = read_facts(&rules, facts.as_bytes()).expect("they fit");
    let mut memory = WorkingMemory::new(&rules, RunId::from_bits(1));
    let outcome = memory.turn(Turn {
        seq: 1,
        now_ms: 0,
        events,
    });
    assert_eq!(outcome.fault, None);
    memory
}

#[test]
fn a_rule_that_did_not_fire_says_which_change_would_let_it() {
    let memory = memory(
        r#"[["Order",{"id":"a","total":5}],["Order",{"id":"b","total":50,"state":"held"}],["Order",{"id":"c","total":1,"state":"held"}]]"#,
    );
    insta::assert_snapshot!(memory.explain("reserve").expect("it exists").to_string());
}

#[test]
fn a_partial_match_is_shown_with_the_fact_that_is_missing() {
    let memory = memory(r#"[["Order",{"id":"a","total":50}],["Stock",{"order":"x","left":5}]]"#);
    let explanation = memory.explain("reserve").expect("it exists");
    insta::assert_snapshot!(explanation.to_string());
    let json = serde_json::to_value(&explanation).expect("it serializes");
    assert_eq!(
        json["clauses"][1]["near"][0]["change"],
        "set `order` of #2 to \"a\""
    );
}

#[test]
fn what_stands_in_the_way_of_a_no_and_of_an_if_is_named() {
    let memory = memory(r#"[["Order",{"id":"a","total":50}],["Stock",{"order":"a","left":0}]]"#);
    insta::assert_snapshot!(memory.explain("ship").expect("it exists").to_string());
    insta::assert_snapshot!(memory.explain("sum").expect("it exists").to_string());
}

#[test]
fn versions_differ_by_what_would_fire() {
    let old = rules(RULES);
    let changed = RULES
        .replace("order.total > 10", "order.total > 40")
        .replace("total: int,", "total: int, note: string = \"\",")
        .replace("order.state = \"shipped\";", "order.state = \"sent\";");
    let new = rules(&changed);
    let facts = r#"[
        ["Order", { "id": "a", "total": 20 }], ["Stock", { "order": "a", "left": 1 }],
        ["Order", { "id": "b", "total": 50 }], ["Stock", { "order": "b", "left": 1 }],
        {"id": 9, "type": "Order", "version": 2, "value": { "id": "c", "total": 5, "state": "reserved" }, "written_by": "request"},
        ["Stock", { "order": "c" }]
    ]"#;
    let found = diff(&old, &new, facts.as_bytes()).expect("a list of facts");
    insta::assert_snapshot!(found.to_string());
    let same = diff(&old, &old, br#"[["Order",{"id":"a","total":20}]]"#).expect("a list of facts");
    assert!(same.is_empty());
    let back = diff(&new, &old, facts.as_bytes()).expect("a list of facts");
    assert_eq!((back.new.len(), back.gone.len()), (1, 0));
    assert!(diff(&old, &new, b"[1]").is_err());
}

#[test]
fn the_graph_of_rules_is_text_and_a_picture() {
    let graph = rules(RULES).graph();
    insta::assert_snapshot!(graph.mermaid());
    insta::assert_snapshot!("graph_svg", graph.svg());
}
