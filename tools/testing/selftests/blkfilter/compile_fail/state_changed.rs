// SPDX-License-Identifier: GPL-2.0
//~ E0594: the state is shared
fn submit_bio<'cb>(mut this: Pin<&'cb Good>, bio: Incoming<'cb>) -> Verdict<'cb> {
    this.count += 1; //~ bad
    let _ = this.count; //~ good
    bio.pass()
}
