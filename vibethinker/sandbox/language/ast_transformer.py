"""Transformer of Python source into guarded byte code: the policy on a program's syntax tree.

Unlike RestrictedPython's transformer, which it extends, it leaves subscripts, iteration, calls and attributes with
harmless names as they are. Only attributes that could lead out of the program's own objects go through a guard, and
attribute writes make sure that their object is the program's. No source can spell the names of the guards, so nothing
shadows them.
"""

# ruff: noqa: N802, N815 - visitors are named after the nodes
from __future__ import annotations

import ast
import sys
import types
from typing import Any, NoReturn, TypeVar

from RestrictedPython.transformer import RestrictingNodeTransformer

from vibethinker.sandbox.exceptions import RejectedError
from vibethinker.sandbox.language.name_policy import (
    BINDABLE,
    READABLE,
    RULES,
    TEXTS,
    Access,
    check_template,
    is_dunder,
    is_plain,
)

FILENAME = "<program>"  # of every code object made here: it tells a program's functions from the library's
LOAD, WRITE, WRITE_NAMED, TYPE, OWN = "$load", "$write", "$write_named", "$type", "$own"
KINDS, STAND_IN = "$kinds", "$stand_in"
NESTING = 3000  # recursion limit while compiling: long chains of `elif` or `+` pass, and the C stack holds

_PASSIVE: tuple[type[ast.AST], ...] = (
    *(ast.Module, ast.Expression, ast.Expr, ast.Delete, ast.withitem),
    *(ast.If, ast.For, ast.While, ast.Try, ast.With, ast.Raise, ast.Assert, ast.Return),
    *(ast.Yield, ast.YieldFrom, ast.keyword, ast.Starred, ast.Subscript, ast.Slice, ast.IfExp),
    *(ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.List, ast.Tuple, ast.Set, ast.Dict),
    *(ast.JoinedStr, ast.FormattedValue, ast.NamedExpr, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
    *(ast.Match, ast.match_case, ast.MatchOr, ast.MatchSequence),
)
_LEAVES = frozenset({ast.Constant, ast.MatchSingleton, ast.Pass, ast.Break, ast.Continue})
_SKIPPED = frozenset({"ctx", "op", "ops", "type_comment", "conversion", "type_ignores"})
_CHILDREN: dict[type[ast.AST], tuple[str, ...]] = {
    kind: tuple(f for f in kind._fields if f not in _SKIPPED) for kind in _PASSIVE
}
_LOADED = ast.Load()
_Node = TypeVar("_Node", bound=ast.AST)


def compile_program(source: str, mode: str = "exec") -> types.CodeType:
    """Guarded code of a whole program, or of an expression (`eval`), to run in a `namespace()`.

    Raises:
        RejectedError: the policy refuses a construct, or the source is built to break the parser.
        SyntaxError: Python refuses it as well.
    """
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(NESTING)
        tree = ast.parse(source.removeprefix("\ufeff"), FILENAME, mode)
        code: types.CodeType = compile(_GuardTransformer().visit(tree), FILENAME, mode, dont_inherit=True)
        return code
    except (RecursionError, MemoryError) as error:
        raise RejectedError(f"line 1: the source is nested too deeply ({type(error).__name__})") from None
    except ValueError as error:  # NUL bytes, lone surrogates
        raise RejectedError(f"line 1: {error}") from None
    finally:
        sys.setrecursionlimit(limit)


def _at(node: Any, origin: Any) -> Any:
    node.lineno, node.col_offset = origin.lineno, origin.col_offset
    node.end_lineno, node.end_col_offset = origin.end_lineno, origin.end_col_offset
    return node


def _name(name: str, origin: ast.AST) -> ast.Name:
    return _at(ast.Name(name, _LOADED), origin)


def _call(guard: str, origin: ast.AST, *arguments: ast.expr) -> ast.Call:
    return _at(ast.Call(_name(guard, origin), list(arguments), []), origin)


def _bound_names(body: list[ast.stmt]) -> set[str]:
    """Every name that statements bind, nested functions and classes included."""
    found: set[str] = set()
    for node in (node for statement in body for node in ast.walk(statement)):
        if isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                found.add(node.id)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            found.update(node.names)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name.partition(".")[0])
        else:  # functions, classes, handlers, patterns and parameters
            found.update(getattr(node, field, None) or "" for field in ("name", "rest", "arg"))
    return found


def _keep_registered_type(node: Any) -> None:
    """`@f.register` of a single-dispatch function takes its type from the annotation: make it an argument."""
    first = (node.args.posonlyargs + node.args.args)[:1]
    if not first or first[0].annotation is None or isinstance(first[0].annotation, ast.Constant):
        return
    for i, decorator in enumerate(node.decorator_list):
        if isinstance(decorator, ast.Attribute) and decorator.attr == "register":
            node.decorator_list[i] = _at(ast.Call(decorator, [first[0].annotation], []), decorator)


class _GuardTransformer(RestrictingNodeTransformer):
    """Checks a tree and inserts the guards, in origin; every visit returns exactly one node."""

    def __init__(self) -> None:
        super().__init__()
        self._class = ""  # name of the enclosing class as mangling uses it
        self._class_body = False  # directly in a class body, where annotations mean fields
        self._flags: dict[str, list[ast.stmt]] = {}  # parameter that is never rebound → the one test of its class

    def error(self, node: ast.AST, info: str) -> NoReturn:
        raise RejectedError(f"line {getattr(node, 'lineno', 1)}: {info}")

    def visit(self, node: ast.AST) -> Any:
        kind = type(node)
        if kind in _LEAVES:
            return node
        fields = _CHILDREN.get(kind)
        if fields is not None:
            return self._children(node, fields)
        return getattr(self, "visit_" + kind.__name__, self.generic_visit)(node)

    def _children(self, node: _Node, fields: tuple[str, ...]) -> _Node:
        visit = self.visit
        for field in fields:
            value = getattr(node, field)
            if type(value) is list:
                for i, child in enumerate(value):
                    if child is not None:
                        value[i] = visit(child)
            elif value is not None and type(value) is not str:
                setattr(node, field, visit(value))
        return node

    # names

    def check_name(self, node: Any, name: str | None, allow_magic_methods: bool = False) -> None:
        """Rejects a special name that a program binds."""
        if name is not None and name[:2] == "__" and is_dunder(name) and name not in BINDABLE:
            self.error(node, f"the name {name!r} may not be bound")

    def visit_Name(self, node: ast.Name) -> ast.Name:
        if type(node.ctx) is not ast.Load:
            self.check_name(node, node.id)
            if node.id == "__match_args__":
                self.error(node, "'__match_args__' must be assigned a literal tuple of public names")
        elif node.id[:2] == "__" and is_dunder(node.id) and node.id not in READABLE:
            self.error(node, f"the name {node.id!r} is not available")
        return node

    def visit_Global(self, node: ast.Global | ast.Nonlocal) -> ast.AST:
        for name in node.names:
            self.check_name(node, name)
        return node

    visit_Nonlocal = visit_Global

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> ast.AST:
        for alias in node.names:
            self.check_name(node, alias.asname or alias.name.partition(".")[0])
            if type(node) is ast.ImportFrom and is_dunder(alias.name):
                self.error(node, f"the name {alias.name!r} may not be imported")
        return node

    visit_ImportFrom = visit_Import

    def _named(self, node: Any) -> ast.AST:
        self.check_name(node, node.name)
        return self._children(node, node._fields)

    visit_ExceptHandler = visit_MatchStar = visit_MatchAs = _named

    # attributes

    def _mangled(self, name: str) -> str:
        """The compiler mangles attributes, not the constants that name them to a guard."""
        private = self._class and name[:2] == "__" and name[-2:] != "__"
        return f"_{self._class}{name}" if private else name

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        rule = RULES[node.attr]
        if rule is Access.REFUSED:
            self.error(node, f"the attribute {node.attr!r} is not available")
        node.value = value = self.visit(node.value)
        if type(node.ctx) is not ast.Load:
            return self._written(node, rule)
        if rule is Access.NATIVE:
            return node
        if rule is Access.FORMAT and type(value) is ast.Constant and type(value.value) is str:
            try:
                check_template(value.value)
                return node
            except (AttributeError, ValueError):  # it fails when it runs
                pass
        guarded = _call(LOAD, node, value, _at(ast.Constant(self._mangled(node.attr)), node))
        if node.attr == "__class__" and type(value) is ast.Name:
            return self._if_own(value, _call(TYPE, node, value), guarded)
        if rule is Access.GUARDED and type(value) is ast.Name and not is_dunder(node.attr):
            return self._if_own(value, node, guarded)
        return guarded

    def _if_own(self, value: ast.Name, own: ast.expr, foreign: ast.expr) -> ast.IfExp:
        """`own if type(value) in OWN else foreign`, without calling a Python function in the common case.

        Of a parameter that is never rebound the test is made once, where its function begins.
        """
        test: ast.expr = _at(ast.Compare(_call(TYPE, value, value), [ast.In()], [_name(OWN, value)]), value)
        if (begins_with := self._flags.get(value.id)) is not None:
            flag = f"${value.id}?"
            if not begins_with:
                begins_with.append(_at(ast.Assign([_at(ast.Name(flag, ast.Store()), value)], test), value))
            test = _name(flag, value)
        return _at(ast.IfExp(test, own, foreign), value)

    def _written(self, node: ast.Attribute, rule: Access) -> ast.Attribute:
        value, name = node.value, node.attr
        special = is_dunder(name)
        if (special and name not in BINDABLE) or name in ("__match_args__", "__slots__"):
            self.error(node, f"the attribute {name!r} may not be written")
        if rule is Access.NATIVE and not special and name[0] != "_":
            guarded = _call(WRITE, node, value)
        else:
            guarded = _call(WRITE_NAMED, node, value, _at(ast.Constant(self._mangled(name)), node))
        node.value = self._if_own(value, value, guarded) if type(value) is ast.Name and not special else guarded
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        """It reads the attribute natively, and the right operand's `__radd__` would see what was read."""
        target = node.target
        name = target.attr if type(target) is ast.Attribute else ""
        if name not in TEXTS and (is_dunder(name) or RULES[name] is Access.FORMAT):
            self.error(node, f"the attribute {name!r} may not be augmented")
        return self._children(node, ("target", "value"))

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """`type(x)` becomes a look-up, as long as `type` is the built-in one."""
        self._children(node, ("func", "args", "keywords"))
        kind = node.func
        if type(kind) is not ast.Name or kind.id != "type" or len(node.args) != 1 or node.keywords:
            return node
        if type(node.args[0]) is not ast.Name:  # it stands in the code twice: nested, it would grow without bound
            return node
        test = _at(ast.Compare(kind, [ast.Is()], [_name(STAND_IN, node)]), node)
        found = _at(ast.Subscript(_name(KINDS, node), _call(TYPE, node, node.args[0]), _LOADED), node)
        return _at(ast.IfExp(test, found, node), node)

    # statements

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        node.value = self.visit(node.value)
        for i, target in enumerate(node.targets):
            if type(target) is ast.Name and target.id == "__match_args__":
                self._check_match_args(node)
            else:
                node.targets[i] = self.visit(target)
        return node

    def _check_match_args(self, node: ast.Assign) -> None:
        """A positional class pattern fetches these names from its subject, without a guard."""
        names = node.value.elts if isinstance(node.value, ast.Tuple) else [None]
        if not all(isinstance(n, ast.Constant) and type(n.value) is str and is_plain(n.value) for n in names):
            self.error(node, "'__match_args__' must be assigned a literal tuple of public names")

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Class bodies keep annotations, they are fields there; elsewhere only the value stays."""
        target = node.target
        if not self._class_body or not isinstance(target, ast.Name):
            if node.value is None:
                return _at(ast.Pass(), node)
            return self.visit(_at(ast.Assign([target], node.value), node))
        if is_dunder(target.id) and target.id not in ("__slots__", "__hash__", "__doc__"):
            self.error(node, f"{target.id!r} may not be a field")
        return self._children(node, ("annotation", "value"))

    def _check_arguments(self, node: Any) -> None:
        arguments: ast.arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        for argument in every:
            if argument is not None:
                self.check_name(node, argument.arg)
                argument.annotation = None
        self._children(arguments, ("defaults", "kw_defaults"))

    def visit_FunctionDef(self, node: Any) -> ast.AST:
        """Annotations of functions go: nothing reads them, and as strings they would be evaluated unguarded."""
        self.check_name(node, node.name)
        _keep_registered_type(node)
        node.returns = None
        self._check_arguments(node)
        self._children(node, ("decorator_list",))
        outer, rebound = (self._class_body, self._flags), _bound_names(node.body)
        parameters = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
        # With `__` in it, a name may be what mangling makes of another one that is bound here.
        flags: dict[str, list[ast.stmt]] = {p: [] for p in parameters if p not in rebound and "__" not in p}
        self._class_body, self._flags = False, self._flags | flags
        self._children(node, ("body",))
        self._class_body, self._flags = outer
        is_documented = isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant)
        node.body[is_documented:is_documented] = [test for tests in flags.values() for test in tests]
        return node

    def visit_AsyncFunctionDef(self, node: Any) -> Any:
        """There is no event loop: calling one fails, merely defining one does not."""
        message = _at(ast.Constant("async functions are not available"), node)
        failure = _at(ast.Raise(_at(ast.Call(_name("RuntimeError", node), [message], []), node), None), node)
        plain = ast.FunctionDef(node.name, node.args, [failure], node.decorator_list, None, None)
        return self.visit_FunctionDef(_at(plain, node))

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        """Checks its parameters, which have no annotations."""
        self._check_arguments(node)
        return self._children(node, ("body",))

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.check_name(node, node.name)
        self._children(node, ("bases", "keywords", "decorator_list"))
        outer = self._class, self._class_body, self._flags
        self._class, self._class_body, self._flags = node.name.lstrip("_"), True, {}
        self._children(node, ("body",))
        self._class, self._class_body, self._flags = outer
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        if node.is_async:
            self.error(node.target, "asynchronous comprehensions are not available")
        return self._children(node, ("target", "iter", "ifs"))

    # patterns: they fetch attributes by themselves, so only plain names may occur

    def _plain_reference(self, node: ast.expr) -> None:
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and not is_plain(part.attr):
                self.error(node, f"a pattern may not use the attribute {part.attr!r}")
            if isinstance(part, ast.Name):
                self.visit_Name(part)

    def visit_MatchValue(self, node: ast.MatchValue) -> ast.AST:
        self._plain_reference(node.value)
        return node

    def visit_MatchClass(self, node: ast.MatchClass) -> ast.AST:
        self._plain_reference(node.cls)
        for name in node.kwd_attrs:
            if not is_plain(name):
                self.error(node, f"a pattern may not use the attribute {name!r}")
        return self._children(node, ("patterns", "kwd_patterns"))

    def visit_MatchMapping(self, node: ast.MatchMapping) -> ast.AST:
        for key in node.keys:
            self._plain_reference(key)
        self.check_name(node, node.rest)
        return self._children(node, ("patterns",))
