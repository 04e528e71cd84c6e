// SPDX-License-Identifier: GPL-2.0
//~ E0599: the data of a bio that was not taken is not filled in
fn submit_bio<'cb>(mut bio: Incoming<'cb>) -> Verdict<'cb> {
    bio.data_mut(); //~ bad
    bio.data(); //~ good
    bio.pass()
}
