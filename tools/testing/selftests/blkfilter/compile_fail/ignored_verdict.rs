// SPDX-License-Identifier: GPL-2.0
//~ unused_must_use: a verdict has to be returned
fn submit_bio<'cb>(a: Incoming<'cb>) {
    a.pass(); //~ bad
    let _ = a.pass(); //~ good
}
