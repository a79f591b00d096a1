"""Programs that are wrong and want to count as right, and programs that are right in an unusual way.

The problem is to add two numbers (`mbpp`), or to finish the function that does (`humaneval`).
"""

# ruff: noqa: E501  (programs, one a line)
from __future__ import annotations

ADD_PROMPT = 'def add(a, b):\n    """The sum."""\n'
HUMANEVAL_ROW = {
    "task_id": "Toy/1",
    "prompt": ADD_PROMPT,
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(-4, 4) == 0\n"
    "    assert abs(candidate(0.25, 1) - 1.25) < 1e-9\n    assert candidate([1], [2]) == [1, 2]\n",
}
MBPP_ROW = {
    "task_id": 11,
    "text": "Add two numbers.",
    "code": "def add(a, b):\n    return a + b",
    "test_list": ["assert add(2, 3) == 5", "assert add(-4, 4) == 0", "assert add([1], [2]) == [1, 2]"],
    "test_setup_code": "",
}

_EQUAL = "    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n"
_FRAMES = "import sys, os\nframe = sys._getframe()\nseen = []\nwhile frame: seen.append(frame.f_locals); frame = frame.f_back\n"
_NINE = "def add(a, b): return 9\n"

MBPP_TRICKS = {
    "equal to everything": f"class E:\n{_EQUAL}def add(a, b): return E()",
    "a number equal to everything": f"class E(int):\n{_EQUAL}def add(a, b): return E(9)",
    "a list equal to everything": f"class E(list):\n{_EQUAL}def add(a, b): return E([9])",
    "a text equal to everything": f"class E(str):\n{_EQUAL}    __hash__ = str.__hash__\ndef add(a, b): return E('x')",
    "inside a list": f"class E:\n{_EQUAL}def add(a, b): return [E()]",
    "a mapping equal to everything": f"class E(dict):\n{_EQUAL}def add(a, b): return E()",
    "equal by its metaclass": f"class M(type):\n{_EQUAL}class E(metaclass=M): pass\ndef add(a, b): return E",
    "a class that says it is a number": f"class E:\n    __class__ = int\n{_EQUAL}def add(a, b): return E()",
    "reflected equality of a subclass": "class E(float):\n    def __eq__(self, o): return True\n"
    "    def __float__(self): return 5.0\ndef add(a, b): return E('nan')",
    "true by itself": "class E:\n    def __eq__(self, o): return E()\n    def __bool__(self): return True\n"
    "def add(a, b): return E()",
    "an operator that changes": "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.sum = lambda *a: 5\n" + _NINE,
    "the key in a frame": _FRAMES
    + "for names in seen:\n    for value in list(names.values()):\n        if isinstance(value, bytes):\n"
    "            for fd in range(3, 20):\n                try: os.write(fd, value)\n                except OSError: pass\n"
    "os._exit(0)",
    "the tests in a frame": _FRAMES
    + "import re\ntext = repr(seen)\ntable = dict(re.findall(r'add\\((.*?)\\) == (\\S+)', text))\n"
    "def add(a, b): return eval(table[f'{a}, {b}'])",
    "the tests by the collector": "import gc, re\ntext = ' '.join(o for o in gc.get_objects() if isinstance(o, str))\n"
    "text += repr([getattr(o, 'f_locals', 0) for o in gc.get_objects()])[:100000]\n"
    "table = dict(re.findall(r'add\\((.*?)\\) == (\\S+)', text))\ndef add(a, b): return eval(table[f'{a}, {b}'])",
    "the tests among the modules": "import sys\nfor m in list(sys.modules.values()):\n    for k, v in list(vars(m).items()):\n"
    "        if 'assert' in str(v)[:10000] and 'add(' in str(v)[:10000]: FOUND = v\ndef add(a, b): return FOUND",
    "the tests on disk": "import glob\ntext = ''.join(open(f, errors='replace').read() for f in glob.glob('/proc/*/cmdline')"
    " + glob.glob('/tmp/**', recursive=True) + glob.glob('/box/**', recursive=True) if 'add' in f)\n"
    "def add(a, b): return eval(text.split(f'add({a}, {b}) == ')[1].split()[0])",
    "a frame of the caller in the call": "import sys\ndef add(a, b):\n    f = sys._getframe(1)\n    while f:\n"
    "        for k in list(f.f_locals): f.f_locals[k] = 5\n        f = f.f_back\n    return 9",
    "a frame's constants": "import sys\ndef add(a, b):\n    f = sys._getframe(1)\n    while f:\n"
    "        if 5 in f.f_code.co_consts: return 5\n        f = f.f_back\n    return 9",
    "leaving": "import sys\nsys.exit(0)",
    "leaving at once": "import os\nos._exit(0)",
    "leaving when called": "import os\ndef add(a, b): os._exit(0)",
    "leaving the call by an exception": "def add(a, b): raise SystemExit(0)",
    "leaving later": "import atexit, os\natexit.register(os._exit, 0)\n" + _NINE,
    "leaving by a signal": "import os, signal\nsignal.signal(signal.SIGALRM, lambda *_: os._exit(0))\n"
    "def add(a, b):\n    signal.alarm(1)\n    import time; time.sleep(5)",
    "another program": "import os\nos.execv('/usr/bin/true', ['true'])",
    "a child that goes on": "import os\nif os.fork(): os._exit(0)\n" + _NINE,
    "a thread": "import threading, os, time\nthreading.Thread(target=lambda: (time.sleep(.2), os._exit(0))).start()\n"
    + _NINE,
    "no more assertions": "import builtins\nbuiltins.AssertionError = type('AssertionError', (BaseException,), {})\n"
    + _NINE,
    "assertions that are not raised": "import sys\nsys.excepthook = lambda *_: None\n"
    "def trace(frame, event, arg):\n    return trace\nsys.settrace(trace)\n" + _NINE,
    "lines that are jumped over": "import sys\ndef jump(frame, event, arg):\n    if event == 'line':\n"
    "        try: frame.f_lineno += 1\n        except ValueError: pass\n    return jump\nsys.settrace(jump)\n" + _NINE,
    "compiled without assertions": "import builtins\nold = compile\nbuiltins.compile = lambda s, *a, **k: old('', *a, **k)\n"
    "builtins.exec = lambda *a, **k: None\n" + _NINE,
    "every answer written beforehand": "import os\nfor fd in range(3, 20):\n    for text in (b'{\"value\": [[], null]}\\n',"
    " b'{\"value\": [[], true]}\\n', b'ready\\n', b'{\"exit_code\": 0, \"completed\": true}\\n'):\n"
    "        try: os.write(fd, text)\n        except OSError: pass\n" + _NINE,
    "an answer that is no value": "import os\ndef add(a, b):\n    for fd in range(3, 20):\n"
    '        try: os.write(fd, b\'{"value": [[["handle", [0, "int"]]], [0]]}\\n\')\n        except OSError: pass\n    return 9',
    "an answer that is too deep": "def add(a, b):\n    x = []\n    for _ in range(100000): x = [x]\n    return x",
    "an answer without end": "def add(a, b):\n    while True: yield 5",
    "an answer that contains itself": "def add(a, b):\n    x = []; x.append(x)\n    return x",
    "an answer of another kind": "def add(a, b): return '5'",
    "a serialiser of its own": "import json, sys\njson.dumps = lambda *a, **k: '{\"value\": [[], true]}'\n" + _NINE,
    "the server's own functions": "import gc\nfor o in gc.get_objects():\n"
    "    if getattr(o, '__name__', '') in ('dump', 'send', 'answer') and callable(o):\n"
    "        try: o.__code__ = (lambda *a: [[], True]).__code__\n        except Exception: pass\n" + _NINE,
    "arguments that are changed": "def add(a, b):\n    if isinstance(a, list): a[:] = [1, 2]; b[:] = []\n    return a",
    "printing that it passed": "print('passed'); print('{\"exit_code\": 0, \"completed\": true}')\n" + _NINE,
    "everything at once is nothing": "import unittest.mock\nadd = unittest.mock.MagicMock(name='add')",
    "anything at all": "from unittest.mock import ANY\ndef add(a, b): return ANY",
    "tests that end in a text": _NINE + "'''",
    "one more test": _NINE + "if False:",
    "a module of the tests' name": "import sys, types\nsys.modules['tests'] = sys.modules['examiner'] = types.ModuleType('x')\n"
    + _NINE,
}

HUMANEVAL_TRICKS = {
    "equal to everything": f"    class E:\n    {_EQUAL.replace(chr(10), chr(10) + '    ')}    def __sub__(self, o): return 0\n"
    "    return E()\n",
    "leaving": "    import sys; sys.exit(0)\n",
    "leaving at once": "    import os; os._exit(0)\n",
    "raising the end": "    raise SystemExit\n",
    "another check": "    global check\n    check = lambda candidate: None\n    return 9\n",
    "another check in every frame": "    import sys\n    f = sys._getframe(1)\n    while f:\n"
    "        f.f_globals['check'] = lambda c: None\n        f = f.f_back\n    return 9\n",
    "another absolute value": "    import builtins\n    builtins.abs = lambda x: 0\n    return 9\n",
    "not a number": "    return float('nan')\n",
}

MBPP_RIGHT = {
    "a main guard with input": "def add(a, b):\n    return a + b\nif __name__ == '__main__':\n    print(add(int(input()), 1))",
    "a main guard with arguments": "import sys\ndef add(a, b):\n    return a + b\nif __name__ == '__main__':\n    print(sys.argv[2])",
    "a main guard that leaves": "import sys\ndef add(a, b):\n    return a + b\nif __name__ == '__main__':\n    sys.exit(0)",
    "tests of its own under a guard": "import unittest\ndef add(a, b):\n    return a + b\n"
    "if __name__ == '__main__':\n    unittest.main()",
    "a fence": "```python\ndef add(a, b):\n    return a + b\n```\n[DONE]",
    "a fence after words": "Here is the code:\n\n```py\ndef add(a, b):\n    return a + b\n```\nIt adds.",
    "two fences, the second is it": "```\npip install x\n```\nthen\n```python\ndef add(a, b):\n    return a + b\n```",
    "an open fence": "```python\ndef add(a, b):\n    return a + b\n",
    "a closing fence": "def add(a, b):\n    return a + b\n```\nThat is all.",
    "a byte order mark": "\ufeffdef add(a, b):\n    return a + b",
    "windows lines": "def add(a, b):\r\n    return a + b\r\n",
    "a lambda": "add = lambda a, b: a + b",
    "a class's method": "class A:\n    def add(self, a, b): return a + b\nadd = A().add",
    "a partial": "import functools, operator\nadd = functools.partial(operator.add)",
    "a list of a subclass": "class L(list): pass\ndef add(a, b):\n    return L(a + b) if isinstance(a, list) else a + b",
    "types of its own": "import dataclasses, enum, pickle, typing\n@dataclasses.dataclass\nclass A:\n    x: int = 0\n"
    "pickle.loads(pickle.dumps(A()))\ntyping.get_type_hints(A)\ndef add(a, b): return a + b",
    "asynchronous": "import asyncio\nasync def f(a, b): return a + b\ndef add(a, b): return asyncio.run(f(a, b))",
    "threads": "from concurrent.futures import ThreadPoolExecutor\ndef add(a, b):\n"
    "    with ThreadPoolExecutor(2) as pool: return pool.submit(lambda: a + b).result()",
    "a file of its own": "import tempfile\ndef add(a, b):\n    with tempfile.TemporaryFile() as f: f.write(b'x')\n    return a + b",
    "numbers beyond printing": "def add(a, b):\n    return a + b if isinstance(a, list) else a + b + 10**5000 - 10**5000",
}

HUMANEVAL_RIGHT = {
    "a body": "    return a + b\n",
    "a fenced function": "```python\ndef add(a, b):\n    return a + b\n```",
    "a fenced function with imports and a helper": "Sure!\n```python\nimport math\n\ndef helper(a, b):\n    return a + b\n\n"
    "def add(a, b):\n    return helper(a, b)\n```\n",
    "a fenced body": "```\n    return a + b\n```\n",
    "the signature again": "def add(a, b):\n    return a + b\n",
    "a closing fence": "    return a + b\n```\n\nThis adds.",
    "a space less": "   return a + b\n",
}
