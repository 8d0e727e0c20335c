/* JSON schemas: what documents they allow, and what is refused by name and place. */
#include "help.h"

static void yes_and_no(const char *schema, const char *const *yes, const char *const *no)
{
    check_texts(ap_json_schema_parse, schema, yes, no);
}

static void test_objects(void **state)
{
    (void)state;
    yes_and_no("{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"},\"b\":{\"type\":"
               "\"integer\"}},"
               "\"required\":[\"a\",\"b\"],\"additionalProperties\":false}",
               TEXTS("{\"a\":\"x\",\"b\":3}", "{ \"a\": \"\", \"b\": -12 }",
                     "{\n  \"a\": \"é\\n\\u12aB\",\n  \"b\": 0\n}"),
               TEXTS("{\"a\":\"x\"}", "{\"b\":1,\"a\":\"x\"}", "{\"a\":\"x\",\"b\":1.5}",
                     "{\"a\":\"x\",\"b\":01}", "{  \"a\":\"\",\"b\":1}"));
    yes_and_no("{\"type\":\"object\",\"properties\":{\"a\":{},\"b\":{\"type\":\"null\"}}}",
               TEXTS("{}", "{\"a\":[1,{\"x\":[]}]}", "{\"b\":null}", "{\"a\":1,\"b\":null}"),
               TEXTS("{\"c\":1}", "{\"b\":null,\"a\":1}", "{,\"b\":null}", "{\"a\":1,}"));
    yes_and_no("{\"type\":\"object\",\"properties\":{\"ab\":{\"type\":\"string\"}},"
               "\"additionalProperties\":{\"type\":\"integer\"}}",
               TEXTS("{}", "{\"ab\":\"x\"}", "{\"a\":3}", "{\"ab\":\"\",\"abc\":4,\"\":5}"),
               TEXTS("{\"ab\":1}", "{\"a\":\"x\"}", "{\"a\":1,\"ab\":\"x\"}"));
    yes_and_no("{\"type\":\"object\",\"patternProperties\":{\"^a\":{\"type\":\"integer\"}},"
               "\"additionalProperties\":false}",
               TEXTS("{}", "{\"a1\":1}"), TEXTS("{\"b\":1}", "{\"a\":null}"));
    yes_and_no("{\"type\":\"object\",\"properties\":{\"a\":{},\"b\":{},\"c\":{}},\"minProperties\":"
               "1,\"maxProperties\":2}",
               TEXTS("{\"a\":1}", "{\"a\":1,\"c\":2}"), TEXTS("{}", "{\"a\":1,\"b\":1,\"c\":1}"));
    yes_and_no("{\"type\":\"object\",\"properties\":{\"a\":false}}", TEXTS("{}"),
               TEXTS("{\"a\":1}"));
}

static void test_arrays(void **state)
{
    (void)state;
    yes_and_no(
        "{\"type\":\"array\",\"items\":{\"type\":\"boolean\"},\"minItems\":2,\"maxItems\":3}",
        TEXTS("[true,false]", "[ true, false, true ]"),
        TEXTS("[]", "[true]", "[true,true,true,true]", "[1,2]"));
    yes_and_no("{\"type\":\"array\",\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"null\"}],"
               "\"items\":false}",
               TEXTS("[]", "[1]", "[1,null]"), TEXTS("[null]", "[1,null,2]"));
    yes_and_no("{\"type\":\"array\",\"maxItems\":0}", TEXTS("[]"), TEXTS("[1]"));
}

static void test_strings(void **state)
{
    (void)state;
    yes_and_no("{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}",
               TEXTS("\"ab\"", "\"é😀\\n\"", "\"\\ud83d\\ude00a\""),
               TEXTS("\"a\"", "\"abcd\"", "\"\\ud83d\"", "\"\\ude00ab\""));
    yes_and_no("{\"type\":\"string\",\"pattern\":\"^[a-z]{2,4}\\\\d+$\"}",
               TEXTS("\"ab1\"", "\"abcd123\""),
               TEXTS("\"a1\"", "\"abcde1\"", "\"ab\"", "\"ab1 \""));
    yes_and_no("{\"type\":\"string\",\"pattern\":\"foo|^b\"}",
               TEXTS("\"xfoox\"", "\"b\"", "\"foo\""), TEXTS("\"ab\"", "\"\""));
    yes_and_no("{\"type\":\"string\",\"pattern\":\"a\",\"maxLength\":2}", TEXTS("\"a\"", "\"xa\""),
               TEXTS("\"xxa\"", "\"x\""));
    yes_and_no("{\"type\":\"string\",\"format\":\"date\"}",
               TEXTS("\"2024-02-29\"", "\"1999-12-31\""),
               TEXTS("\"2023-02-29\"", "\"1900-02-29\"", "\"2024-13-01\""));
    yes_and_no("{\"type\":\"string\",\"format\":\"date-time\"}",
               TEXTS("\"2024-02-29T23:59:59.5Z\"", "\"2024-01-01T00:00:00+02:00\""),
               TEXTS("\"2024-01-01\"", "\"2024-01-01T24:00:00Z\""));
    yes_and_no("{\"type\":\"string\",\"format\":\"password\",\"maxLength\":3}",
               TEXTS("\"\"", "\"a b\""), TEXTS("\"abcd\"", "1"));
    yes_and_no("{\"format\":\"path\"}", TEXTS("\"\"", "\"/a b\""), TEXTS("1"));
    yes_and_no("{\"type\":\"string\",\"format\":\"ipv6\"}",
               TEXTS("\"::\"", "\"fe80::1\"", "\"1:2:3:4:5:6:7:8\""), TEXTS("\"1::2::3\""));
    yes_and_no("{\"enum\":[\"a\\nb\",3,null,{\"x\":[1,{}]}]}",
               TEXTS("\"a\\nb\"", "3", "null", "{\"x\": [1,{}]}"),
               TEXTS("\"a\"", "4", "{\"x\":[]}"));
    yes_and_no("{\"const\":null}", TEXTS("null"), TEXTS("1"));
    yes_and_no("{\"type\":\"string\",\"enum\":[\"a\",1,\"bcd\"],\"maxLength\":2}", TEXTS("\"a\""),
               TEXTS("1", "\"bcd\""));
}

static void test_numbers(void **state)
{
    (void)state;
    yes_and_no("{\"type\":\"integer\",\"minimum\":-5,\"maximum\":120}",
               TEXTS("-5", "0", "99", "120"), TEXTS("-6", "121", "1000", "1.0"));
    yes_and_no("{\"type\":\"integer\",\"exclusiveMinimum\":10,\"multipleOf\":7}",
               TEXTS("14", "700"), TEXTS("7", "15", "0"));
    yes_and_no("{\"type\":\"number\",\"minimum\":0.1,\"exclusiveMaximum\":2.55}",
               TEXTS("0.1", "1", "2.549"), TEXTS("0", "0.09", "2.55", "3"));
    yes_and_no("{\"type\":\"number\",\"minimum\":-2.5,\"maximum\":-0.5}",
               TEXTS("-2.5", "-1", "-0.50"), TEXTS("0", "-0.4", "-2.6"));
    yes_and_no("{\"type\":\"number\",\"multipleOf\":0.01}", TEXTS("1", "1.5", "-0.25"),
               TEXTS("0.001"));
    yes_and_no("{\"type\":\"number\"}", TEXTS("1", "-0.5e+10", "12E3"), TEXTS("01", ".5", "1."));
    yes_and_no("{\"type\":\"integer\",\"minimum\":1e2,\"maximum\":100}", TEXTS("100"),
               TEXTS("99", "101"));
}

static void test_together(void **state)
{
    (void)state;
    yes_and_no(
        "{\"$defs\":{\"n\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},"
        "\"next\":{\"anyOf\":["
        "{\"$ref\":\"#/$defs/"
        "n\"},{\"type\":\"null\"}]}},\"required\":[\"v\",\"next\"]}},\"$ref\":\"#/$defs/n\"}",
        TEXTS("{\"v\":1,\"next\":{\"v\":2,\"next\":null}}"),
        TEXTS("{\"v\":1}", "{\"v\":1,\"next\":{\"v\":2}}"));
    yes_and_no("{\"type\":\"object\",\"properties\":{\"kids\":{\"type\":\"array\",\"items\":{\"$"
               "ref\":\"#\"}}},\"required\":[\"kids\"]}",
               TEXTS("{\"kids\":[]}", "{\"kids\":[{\"kids\":[]}]}"),
               TEXTS("{}", "{\"kids\":[{}]}"));
    yes_and_no("{\"$ref\":\"#/$defs/x\",\"minLength\":2,\"$defs\":{\"x\":{\"type\":\"string\"}}}",
               TEXTS("\"ab\""), TEXTS("\"a\""));
    yes_and_no("{\"allOf\":[{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"}},"
               "\"required\":[\"a\"]},"
               "{\"properties\":{\"a\":{\"minimum\":3}}}]}",
               TEXTS("{\"a\":3}"), TEXTS("{\"a\":2}", "{}"));
    yes_and_no("{\"oneOf\":[{\"type\":\"object\",\"properties\":{\"k\":{\"const\":\"a\"}},"
               "\"required\":[\"k\"]},"
               "{\"type\":\"object\",\"properties\":{\"k\":{\"const\":\"b\"},\"y\":{}},"
               "\"required\":[\"k\"]}]}",
               TEXTS("{\"k\":\"a\"}", "{\"k\":\"b\",\"y\":1}"),
               TEXTS("{\"k\":\"c\"}", "{\"k\":\"a\",\"y\":1}"));
    yes_and_no("{\"type\":[\"string\",\"null\"]}", TEXTS("\"a\"", "null"), TEXTS("1"));
    yes_and_no("true", TEXTS("1", "[{}]"), TEXTS("", "x"));
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *schema, *word;
        apus_err err;
    } x[] = {{"{\"type\":\"array\",\"minItems\":5,\"maxItems\":2}", "#/minItems", APUS_EINVAL},
             {"{\"properties\":{\"a\":{\"not\":{}}}}", "#/properties/a/not", APUS_EUNSUPPORTED},
             {"{\"if\":{}}", "#/if", APUS_EUNSUPPORTED},
             {"{\"properties\":{\"a\":{\"maxLenght\":3}}}", "maxLenght", APUS_EUNSUPPORTED},
             {"{\"$ref\":\"#\"}", "itself", APUS_EFORMAT},
             {"{\"$ref\":\"#/x\"}", "#/x", APUS_EFORMAT},
             {"{\"$ref\":\"other.json\"}", "other.json", APUS_EUNSUPPORTED},
             {"{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}",
              "no text", APUS_EINVAL},
             {"{\"type\":\"string\",\"format\":\"foo\"}", "#/format", APUS_EUNSUPPORTED},
             {"{\"type\":\"string\",\"pattern\":\"(?=a)\"}", "look-around", APUS_EUNSUPPORTED},
             {"{\"type\":\"string\",\"pattern\":\"a{5,2}\"}", "#/pattern", APUS_EFORMAT},
             {"{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"number\"}]}", "#/oneOf",
              APUS_EUNSUPPORTED},
             {"false", "no text", APUS_EINVAL},
             {"{\"type\":\"integer\",\"minimum\":5,\"maximum\":4}", "no text", APUS_EINVAL},
             {"{\"type\":\"array\",\"uniqueItems\":true}", "uniqueItems", APUS_EUNSUPPORTED},
             {"{\"type\":\"strin\"}", "#/type", APUS_EFORMAT},
             {"{\"type\":\"integer\",\"multipleOf\":0}", "multipleOf", APUS_EFORMAT},
             {"{\"type\":\"integer\",\"multipleOf\":1e9}", "multipleOf", APUS_EUNSUPPORTED},
             {"{\"type\":\"string\",\"pattern\":\"[a-z]{9999}\"}", "states", APUS_EUNSUPPORTED},
             {"[1]", "expected an object", APUS_EFORMAT},
             {"{", "schema", APUS_EFORMAT}};
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        check_refused(ap_json_schema_parse, x[i].schema, x[i].err, x[i].word);
    static char deep[50001];
    memset(deep, '[', sizeof deep - 1);
    check_refused(ap_json_schema_parse, deep, APUS_EFORMAT, "nested");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_objects),  cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_strings),  cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_together), cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
