// SPDX-License-Identifier: GPL-2.0
//~ E0599: the data of a bio that was not taken is not filled in
fn submit_bio<'cb>(bio: Incoming<'cb>) -> Verdict<'cb> {
    let _ = bio.fill(); //~ bad
    bio.data(); //~ good
    bio.pass()
}
