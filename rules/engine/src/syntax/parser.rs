//! The declarations of a rules file. After a mistake the parser goes on at the next declaration, so that one run shows
//! all mistakes. It never recurses, whatever the text.

mod cursor;

use super::lexer::{Kind, Token, tokens};
use super::place::Reporter;
use super::{Clause, ClauseKind, ConstDecl, FactDecl, FieldDecl, File, FnDecl, Name, RuleDecl, Span};

/// A mistake that has been reported; the parser goes on at the next declaration.
#[derive(Debug)]
struct Reported;

type Parsed<T> = Result<T, Reported>;

const TOP: &str = "`workflow`, `fact`, `const`, `fn` or `rule`";

/// The declarations of `text`.
pub(crate) fn parse(text: &str, report: &mut Reporter<'_>) -> File {
    let tokens = tokens(text, report);
    let mut parser = Parser {
        text,
        tokens,
        at: 0,
        report,
    };
    let mut file = File::default();
    while parser.at < parser.tokens.len() {
        let before = parser.at;
        if parser.declaration(&mut file).is_err() {
            parser.at = parser.at.max(before + 1);
            parser.skip_to_declaration();
        }
    }
    file
}

struct Parser<'a, 'r, 'p> {
    text: &'a str,
    tokens: Vec<Token>,
    at: usize,
    report: &'r mut Reporter<'p>,
}

impl<'a> Parser<'a, '_, '_> {
    fn declaration(&mut self, file: &mut File) -> Parsed<()> {
        match self.word() {
            Some("workflow") => {
                self.at += 1;
                let name = self.name("the workflow's name")?;
                self.sign(';', "after the workflow's name")?;
                if file.workflow.is_some() {
                    self.report.error(
                        "repeated-workflow",
                        &name.span,
                        "a file has one workflow",
                        "this is the second",
                    );
                } else {
                    file.workflow = Some(name);
                }
            }
            Some("fact") => file.facts.push(self.fact(false)?),
            Some("shared") => {
                self.at += 1;
                if self.word() != Some("fact") {
                    return self.expected("`fact` after `shared`");
                }
                file.facts.push(self.fact(true)?);
            }
            Some("const") => {
                self.at += 1;
                let name = self.name("the constant's name")?;
                self.sign('=', "after the constant's name")?;
                let value = self.until(&[';']);
                self.sign(';', "after the constant's value")?;
                file.consts.push(ConstDecl { name, value });
            }
            Some("fn") => {
                let function = self.function()?;
                file.functions.push(function);
            }
            Some("rule") => {
                let rule = self.rule()?;
                file.rules.push(rule);
            }
            Some(word) => {
                let wrong = word.to_owned();
                let span = self.span();
                self.report
                    .error(
                        "unexpected",
                        &span,
                        format!("`{wrong}` starts no declaration"),
                        format!("expected {TOP}"),
                    )
                    .similar(&wrong, ["workflow", "fact", "shared", "const", "fn", "rule"]);
                return Err(Reported);
            }
            None => return self.expected(TOP),
        }
        Ok(())
    }

    fn fact(&mut self, shared: bool) -> Parsed<FactDecl> {
        self.at += 1;
        let name = self.name("the fact type's name")?;
        self.sign('{', "after the fact type's name")?;
        let mut fields = Vec::new();
        while !self.is_sign('}') {
            let name = self.name("a field's name or `}`")?;
            self.sign(':', "after the field's name")?;
            let kind = self.name("the field's kind")?;
            let optional = self.take('?');
            let default = if self.take('=') {
                Some(self.until(&[',', '}']))
            } else {
                None
            };
            fields.push(FieldDecl {
                name,
                kind,
                optional,
                default,
            });
            if !self.take(',') && !self.is_sign('}') {
                return self.expected("`,` or `}` after the field");
            }
        }
        self.at += 1;
        self.take(';');
        Ok(FactDecl { name, shared, fields })
    }

    fn function(&mut self) -> Parsed<FnDecl> {
        let start = self.span().start;
        self.at += 1;
        let name = self.name("the function's name")?;
        if !self.is_sign('(') {
            return self.expected("`(` after the function's name");
        }
        let parameters = self.group();
        let parameters = self.text[parameters]
            .split(',')
            .filter(|name| !name.trim().is_empty())
            .count();
        if !self.is_sign('{') {
            return self.expected("`{` before the function's body");
        }
        let body = self.braces()?;
        Ok(FnDecl {
            name,
            parameters,
            span: start..body.end + 1,
        })
    }

    fn rule(&mut self) -> Parsed<RuleDecl> {
        self.at += 1;
        if self.kind() != Some(Kind::Text) {
            return self.expected("the rule's name in double quotes");
        }
        let span = self.span();
        self.at += 1;
        let name = Name {
            text: self.text[span.start + 1..span.end - 1].to_owned(),
            span,
        };
        let mut salience = 0;
        if self.word() == Some("salience") {
            self.at += 1;
            let negative = self.take('-');
            let span = self.span();
            let number = self.kind() == Some(Kind::Number);
            let Some(value) = self.text[span].parse::<i32>().ok().filter(|_| number) else {
                return self.expected("a whole number of 32 bits after `salience`");
            };
            self.at += 1;
            salience = if negative { -value } else { value };
        }
        self.sign('{', "before the rule's sections")?;
        let mut clauses = None;
        let mut sections = [const { None }; 3];
        let mut order = 0;
        while !self.is_sign('}') {
            let word = self.word().unwrap_or_default().to_owned();
            let Some(place) = ["match", "action", "reaction", "error"]
                .iter()
                .position(|name| *name == word)
            else {
                let span = self.span();
                let found = self.found();
                self.report
                    .error(
                        "unexpected",
                        &span,
                        format!("{found} is no section of a rule"),
                        "expected `match`, `action`, `reaction`, `error` or `}`",
                    )
                    .similar(&word, ["match", "action", "reaction", "error"]);
                return Err(Reported);
            };
            let span = self.span();
            self.at += 1;
            if place < order {
                self.report
                    .error(
                        "section-order",
                        &span,
                        format!("`{word}` stands too late or twice"),
                        "not here",
                    )
                    .hint("the order is `match`, `action`, `reaction`, `error`");
            }
            order = place + 1;
            if !self.is_sign('{') {
                return self.expected(&format!("`{{` after `{word}`"));
            }
            if place == 0 {
                clauses = Some(self.clauses());
            } else {
                sections[place - 1] = Some(self.braces()?);
            }
        }
        self.at += 1;
        let Some(clauses) = clauses else {
            self.report.error(
                "no-match",
                &name.span,
                "the rule has no `match`",
                "what does it wait for?",
            );
            return Err(Reported);
        };
        if sections[0].is_none() && sections[1].is_none() {
            self.report.error(
                "no-action",
                &name.span,
                "the rule has neither `action` nor `reaction`",
                "what does it do?",
            );
        }
        Ok(RuleDecl {
            name,
            salience,
            clauses,
            sections,
        })
    }

    /// The clauses within the braces of `match`; a wrong clause is reported and left out.
    fn clauses(&mut self) -> Vec<Clause> {
        self.at += 1;
        let mut clauses = Vec::new();
        while self.at < self.tokens.len() && !self.is_sign('}') {
            if self.take(';') {
                continue;
            }
            let start = self.span().start;
            match self.clause() {
                Ok(mut clause) => {
                    clause.span = start..self.tokens[self.at - 1].span.end;
                    clauses.push(clause);
                    if !self.is_sign(';')
                        && !self.is_sign('}')
                        && self.expected::<()>("`;` after the clause").is_err()
                    {
                        self.until(&[';', '}']);
                    }
                }
                Err(Reported) => {
                    self.until(&[';', '}']);
                }
            }
        }
        self.at += 1;
        clauses
    }

    fn clause(&mut self) -> Parsed<Clause> {
        let mut clause = Clause {
            kind: ClauseKind::If,
            name: None,
            fact_type: None,
            shared: false,
            inner: None,
            measure: None,
            filter: None,
            order: None,
            span: 0..0,
        };
        match self.word() {
            Some("if") => {
                self.at += 1;
                clause.filter = Some(self.expression(&[])?);
                return Ok(clause);
            }
            Some(word @ ("no" | "any")) => {
                clause.kind = if word == "no" {
                    ClauseKind::No
                } else {
                    ClauseKind::Any
                };
                self.at += 1;
                self.pattern(&mut clause, true)?;
                return Ok(clause);
            }
            _ => {}
        }
        let name = self.name(
            "a clause: `name: Type where …`, `no Type c where …`, `name = count Type c where …` or `if …`",
        )?;
        clause.name = Some(name);
        if self.take(':') {
            clause.kind = ClauseKind::Bind;
            self.pattern(&mut clause, false)?;
            return Ok(clause);
        }
        self.sign('=', "or `:` after the name")?;
        clause.kind = match self.word() {
            Some("count") => ClauseKind::Count,
            Some("sum") => ClauseKind::Sum,
            Some("min") => ClauseKind::Min,
            Some("max") => ClauseKind::Max,
            Some("collect") => ClauseKind::Collect,
            _ => return self.expected("`count`, `sum`, `min`, `max` or `collect`"),
        };
        self.at += 1;
        if matches!(clause.kind, ClauseKind::Sum | ClauseKind::Min | ClauseKind::Max) {
            clause.measure = Some(self.measure()?);
        }
        self.pattern(&mut clause, true)?;
        if self.word() == Some("order") {
            self.at += 1;
            if self.word() != Some("by") {
                return self.expected("`by` after `order`");
            }
            let span = self.span();
            self.at += 1;
            if clause.kind != ClauseKind::Collect {
                self.report.error(
                    "unexpected",
                    &span,
                    "only `collect` has an order",
                    "nothing to order",
                );
            }
            clause.order = Some(self.expression(&[])?);
        }
        Ok(clause)
    }

    /// The measure of an aggregate: it ends before `of`, or before a type and its name (two words side by side).
    fn measure(&mut self) -> Parsed<Span> {
        let start = self.at;
        let mut depth = 0_usize;
        while let Some(kind) = self.kind() {
            match kind {
                Kind::Sign('(' | '[' | '{') => depth += 1,
                Kind::Sign(')' | ']') => depth = depth.saturating_sub(1),
                Kind::Sign(';' | '}') if depth == 0 => break,
                Kind::Sign('}') => depth -= 1,
                Kind::Word if depth == 0 && self.at > start => {
                    let word = self.word().unwrap_or_default();
                    let span = self.between(start, self.at);
                    if word == "of" {
                        self.at += 1;
                        return Ok(span);
                    }
                    let before = &self.tokens[self.at - 1];
                    let joins = |word: &str| matches!(word, "in" | "if" | "else");
                    let ends_operand = match before.kind {
                        Kind::Word => !joins(&self.text[before.span.clone()]),
                        Kind::Number | Kind::Text | Kind::OtherText => true,
                        Kind::Sign(sign) => matches!(sign, ')' | ']' | '}'),
                    };
                    if ends_operand && !joins(word) {
                        return Ok(span);
                    }
                }
                _ => {}
            }
            self.at += 1;
        }
        self.expected("a fact type and a name after the measure")
    }

    /// `[shared] Type [name] [where E]`.
    fn pattern(&mut self, clause: &mut Clause, named: bool) -> Parsed<()> {
        if self.word() == Some("shared") {
            self.at += 1;
            clause.shared = true;
        }
        clause.fact_type = Some(self.name("a fact type")?);
        if named {
            clause.inner = match self.word() {
                Some("where" | "order") | None => None,
                Some(_) => Some(self.name("a name")?),
            };
        }
        if self.word() == Some("where") {
            self.at += 1;
            clause.filter = Some(self.expression(&["order"])?);
        }
        Ok(())
    }
}
