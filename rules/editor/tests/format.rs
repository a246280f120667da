//! The formatter on everything written in the language here, and on the same files with their white space torn up.

use std::path::{Path, PathBuf};

use celesta_editor::{FormatError, format};
use celesta_engine::{Compiled, Environment, Source, compile, meaning, words};
use proptest::prelude::*;

fn source(text: &str) -> Source {
    Source {
        path: "rules/a.rules".into(),
        text: text.into(),
    }
}

fn formatted(text: &str) -> String {
    format("rules/a.rules", text).expect("the file can be formatted")
}

/// Every rules file of the repository that can be read.
fn corpus() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = Vec::new();
    let mut folders = vec![
        root.join("examples"),
        root.join("cli"),
        root.join("tests"),
        root.join("rules"),
    ];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder is there") {
            let path = entry.expect("the folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rules") {
                let text = std::fs::read_to_string(&path).expect("the file can be read");
                if meaning(&source(&text)).is_ok() {
                    found.push((path, text));
                }
            }
        }
    }
    found.sort();
    assert!(found.len() > 8, "the examples have been found");
    found
}

#[test]
fn every_file_of_the_repository_is_formatted_once_and_for_all() {
    for (path, text) in corpus() {
        let once = formatted(&text);
        assert_eq!(once, formatted(&once), "{}", path.display());
    }
}

/// Much of the language in one file, laid out by nobody.
const EVERYTHING: &str = r##"workflow  sink ;
const LIMIT=-3;const LIST = [1,2,
3];
fact   A{x:int=-1,y:float?=1.,tags:list=[], // of a
 m:map=#{a:1},}
shared fact LongName { id:string }   // behind
fact B{}
/* above
     the function */
fn twice(a,b){if a>b{return -a;}else{b*2}}
fn closures() { let f=|x,y|x+y ; let g=||1; f.call(1 , 2)+g.call() }
rule "r" salience -10{match{a:A where a.x==1&&a.y!=2.0||!(a.x in[1,2]);no B b;s=sum a.x*2 of A c where c.x>=-1;
any LongName n where n.id !in ["a"]; m = min c.x A c; l=collect A e
 order by -e.x; if s>0}
action{let i=0;while i<10{i+=1;if i==5{continue}}
loop{break;}
do{i-=1}while i>0;
for(x,n)in a.tags{log(`t ${x}  ${n+1}`);log("a""b")}
for q in 0..10{}
let z=switch i{1|2=>"one",4 if i>3=>{"x"},_=>`
 two`,};
try{throw #{a:1}}catch(err){log(err)}
let v=a?.x??0;let w=v>>1;let u=a.tags[0];let t=(1..=3).len();
let big = #{ // first
 a:1 , b:[1,
 2,
 3] , c: #{}
 };
a.x=big.a
 .to_string()
 .len() + 1
 + 2;
{ let inner = 1; }
call("f",#{x:- 1.abs(),y:-1.abs(),z:!true},#{timeout:"2s"});if i>1{a.x=2}else if i>2{a.x=3}else{}a.x-=1;;
}
// before the reaction
reaction{ /* nothing */ }

error{


retry() // again


}
}
fact Last{a:any}
"##;

#[test]
fn everything_is_laid_out() {
    insta::assert_snapshot!(formatted(EVERYTHING));
}

#[test]
fn the_examples_of_the_documentation_are_laid_out_already() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    for (path, text) in corpus() {
        if path.starts_with(&root) {
            assert_eq!(text, formatted(&text), "{}", path.display());
        }
    }
}

#[test]
fn a_file_with_mistakes_is_left_alone() {
    let broken = "workflow a;\nrule \"r\" { match { f: F where f.x == ; } action { log(`x`; } }";
    let Err(FormatError::Mistakes(found)) = format("rules/a.rules", broken) else {
        panic!("the file has mistakes");
    };
    assert!(found.iter().all(|one| one.code == "syntax"), "{found:?}");
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn what_nests_too_deep_is_a_mistake_and_no_crash() {
    for depth in [20, 60, 120, 5_000] {
        let (open, close) = ("(".repeat(depth), ")".repeat(depth));
        let text =
            format!("workflow a;\nrule \"r\" {{ match {{ f: F; }} action {{ f.x = {open}1{close}; }} }}");
        match format("rules/a.rules", &text) {
            Ok(laid_out) => assert_eq!(laid_out, formatted(&laid_out)),
            Err(error) => assert!(matches!(error, FormatError::Mistakes(_)), "{error}"),
        }
    }
}

#[test]
fn names_that_do_not_exist_are_no_hindrance() {
    let text = "workflow a;\nrule \"r\" {match{f:Gone where f.x==1}action{call(\"gone\",#{})}}";
    assert!(formatted(text).contains("match  { f: Gone where f.x == 1 }\n"));
}

#[test]
fn a_formatted_file_compiles_to_the_same_rules() {
    for (path, text) in corpus() {
        let environment = Environment {
            functions: words(&text)
                .map(|word| text[word.span].trim_matches('"').to_owned())
                .collect(),
            ..Environment::default()
        };
        let Ok(before) = compile(&source(&text), &environment) else {
            continue;
        };
        let after = compile(&source(&formatted(&text)), &environment).expect("the same rules");
        let rules = |compiled: &Compiled| -> Vec<(String, u64)> {
            let rules = compiled.rules.rules().iter();
            rules
                .map(|rule| (rule.name().to_owned(), rule.fingerprint()))
                .collect()
        };
        assert_eq!(rules(&before), rules(&after), "{}", path.display());
    }
}

/// The text with other white space between its tokens; a line comment keeps its line feed.
fn torn(text: &str, choices: &[u8]) -> String {
    let mut torn = String::new();
    let mut end = 0;
    let mut choice = choices.iter().cycle();
    for word in words(text) {
        let between = &text[end..word.span.start];
        let choice = choice.next().copied().unwrap_or(0);
        let needs_line = torn.ends_with('\n') || torn.is_empty();
        let commented =
            between.contains('\n') && torn.rfind("//").is_some_and(|at| !torn[at..].contains('\n'));
        if between.is_empty() && end > 0 {
            // Two signs side by side may be one operator.
        } else if commented && !needs_line {
            torn.push_str(["\n", "\n\n\n", "\n\t"][usize::from(choice % 3)]);
        } else {
            torn.push_str(
                [" ", "\n", "   ", "\n\n \n", "\t", " ", between, between][usize::from(choice % 8)],
            );
        }
        torn.push_str(&text[word.span.clone()]);
        end = word.span.end;
    }
    torn
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn torn_files_are_formatted_once_and_say_the_same(choices in proptest::collection::vec(any::<u8>(), 16..200)) {
        let mut texts = corpus();
        texts.push((PathBuf::from("everything"), EVERYTHING.to_owned()));
        for (path, text) in texts {
            let torn = torn(&text, &choices);
            // Some places do not bear a line feed or a space: `f (x)` is a call, `"a" "b"` is nothing.
            let Ok(said) = meaning(&source(&torn)) else { continue };
            let once = match format("rules/a.rules", &torn) {
                Ok(once) => once,
                Err(error) => panic!("{}: {error}\n{torn}", path.display()),
            };
            prop_assert_eq!(&once, &formatted(&once), "{}\n{}", path.display(), torn);
            prop_assert_eq!(said, meaning(&source(&once)).expect("it can be read"));
        }
    }
}
