// SPDX-License-Identifier: GPL-2.0
//~ lifetime: a verdict is on the bio that the call is about
fn submit_bio<'a, 'b>(a: Incoming<'a>, b: Incoming<'b>) -> Verdict<'a> {
    let (a, b) = (a.pass(), b.pass());
    b //~ bad
    a //~ good
}
